package cli

import "fmt"

// Complaint is a message in the words of the reference, capitals and periods
// included, because scripts look for them.
type Complaint string

// Error returns the message.
func (c Complaint) Error() string { return string(c) }

// Complain returns a Complaint.
func Complain(format string, args ...any) error {
	return Complaint(fmt.Sprintf(format, args...))
}
