package cli

import "github.com/spf13/pflag"

// Flags returns the flags of a verb as options, for Help and the completion. The kind of a
// flag's argument is the word in backquotes in its usage.
func Flags(f *pflag.FlagSet) (out []Option) {
	f.VisitAll(func(flag *pflag.Flag) {
		o := Option{Name: flag.Name, Short: flag.Shorthand, Long: true}
		o.Arg, o.Help = pflag.UnquoteUsage(flag)
		if flag.NoOptDefVal != "" {
			o.Arg = ""
		}
		out = append(out, o)
	})
	return out
}
