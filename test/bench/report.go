package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// pairs are values of the two sides, of the same round at the same place.
type pairs struct{ ref, ours []float64 }

func (p *pairs) add(ref, ours float64) {
	p.ref = append(p.ref, ref)
	p.ours = append(p.ours, ours)
}

// ratio is the median of the ratios within the rounds; NaN if there is none.
func (p *pairs) ratio() float64 {
	var r []float64
	for i := range p.ref {
		if p.ref[i] != 0 {
			r = append(r, p.ours[i]/p.ref[i])
		}
	}
	return median(r)
}

// median returns NaN for an empty list.
func median(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(list))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// percentile returns the least value that p percent of the list do not exceed.
func percentile[T cmp.Ordered](list []T, p int) T {
	s := slices.Sorted(slices.Values(list))
	return s[max(0, (len(s)*p+99)/100-1)]
}

// row is one line: what was measured, for both.
type row struct {
	Name    string   `json:"name"`
	Unit    string   `json:"unit,omitempty"`
	Ref     float64  `json:"ref"`
	Ours    float64  `json:"ours"`
	Ratio   *float64 `json:"ratio,omitempty"`       // ours to ref
	Target  float64  `json:"target,omitempty"`      // the ratio to reach; 0 is none
	Zero    bool     `json:"target_zero,omitempty"` // ours is to be 0
	More    bool     `json:"target_more,omitempty"` // the ratio is to be at least the target
	RefP99  *float64 `json:"ref_p99,omitempty"`
	OursP99 *float64 `json:"ours_p99,omitempty"`
}

// verdict says whether the target is reached, to the two digits that are shown.
func (r *row) verdict() string {
	ok := false
	switch {
	case r.Zero:
		ok = r.Ours < 0.05
	case r.Target == 0 || r.Ratio == nil:
		return ""
	case r.More:
		ok = *r.Ratio > r.Target-0.005
	default:
		ok = *r.Ratio < r.Target+0.005
	}
	if ok {
		return "ok"
	}
	return "MISSED"
}

type report struct {
	Rows  []row    `json:"rows"`
	Notes []string `json:"notes"`
}

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// add fills in the values of a row; p99 may be empty.
func (r *report) add(l row, p, p99 pairs) {
	l.Ref, l.Ours = median(p.ref), median(p.ours)
	if q := p.ratio(); !math.IsNaN(q) {
		l.Ratio = &q
	}
	if len(p99.ref) > 0 {
		x, y := median(p99.ref), median(p99.ours)
		l.RefP99, l.OursP99 = &x, &y
	}
	r.Rows = append(r.Rows, l)
}

func (r *report) json(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *report) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "ref\tours\tunit\tratio\ttarget\t\tref p99\tours p99\t  what\t")
	for i := range r.Rows {
		l := &r.Rows[i]
		ratio, target := "", ""
		if l.Ratio != nil {
			ratio = fmt.Sprintf("%.2f", *l.Ratio)
		}
		switch {
		case l.Zero:
			target = "0/s"
		case l.More:
			target = fmt.Sprintf("≥ %.2f", l.Target)
		case l.Target > 0:
			target = fmt.Sprintf("≤ %.2f", l.Target)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t  ", short(l.Ref), short(l.Ours), l.Unit, ratio, target,
			l.verdict(), optional(l.RefP99), optional(l.OursP99))
		fmt.Fprintln(t, l.Name)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintln(w, "*", n)
	}
	return nil
}

// short prints three digits or so.
func short(v float64) string {
	switch {
	case v >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func optional(v *float64) string {
	if v == nil {
		return ""
	}
	return short(*v)
}
