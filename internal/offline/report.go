package offline

import (
	"fmt"
	"strings"
)

// Text returns the report as lines of text.
func (r *Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: TPM %s", r.Where, r.TPM)
	if r.Profile != nil {
		fmt.Fprintf(&b, ", profile %q, state format level %d", r.Profile.Name, r.Profile.Level)
	}
	b.WriteString("\n")
	for _, i := range r.Items {
		fmt.Fprintf(&b, "  %s: %s\n", i.Name, i.text())
		if h := i.History; h != nil {
			fmt.Fprintf(&b, "    TPM %s, generation %d, stored %s by %s on %q, epoch %d\n", h.Identity, h.Generation, h.Stored, h.Program, h.Host, h.Epoch)
		}
		if i.Problem != "" {
			fmt.Fprintf(&b, "    problem: %s\n", i.Problem)
		}
	}
	for _, name := range r.Others {
		fmt.Fprintf(&b, "  %q: temporary, left by a process that was killed\n", name)
	}
	if r.Interrupted {
		b.WriteString("  a change of several items was interrupted; the next start completes it\n")
	}
	return b.String()
}

// text returns the description of one item.
func (i *ItemReport) text() string {
	words := []string{fmt.Sprintf("%d bytes", i.Bytes)}
	switch {
	case i.unread != "" && i.Bytes == 0:
		return i.unread
	case i.unread != "":
		return words[0] + ", " + i.unread
	case i.Container == 0: // it is no container
		return words[0]
	}
	if i.Payload > 0 {
		words[0] += fmt.Sprintf(", payload %d bytes", i.Payload)
	}
	switch {
	case i.Encryption == "none" && i.Key == keyTooMany:
		words = append(words, "plain, though a key is given")
	case i.Encryption == "none":
		words = append(words, "plain")
	case i.Key == "": // unknown
		words = append(words, "encrypted with "+i.Encryption)
	default:
		words = append(words, fmt.Sprintf("encrypted with %s, key %s", i.Encryption, i.Key))
	}
	if i.Encryption == "none" && i.Checksum != "" {
		words = append(words, "checksum "+i.Checksum)
	}
	container := fmt.Sprintf("container version %d", i.Container)
	if i.Writer != "" {
		container += ", written by " + i.Writer
	}
	words = append(words, container)
	if i.Changed != "" {
		words = append(words, "changed "+i.Changed)
	}
	return strings.Join(words, "; ")
}
