package lab

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// clockVar makes the program of the test print its time of day, and what has passed of the other
// clock.
const clockVar = "LAB_TEST_CLOCK"

func TestMain(m *testing.M) {
	if os.Getenv(clockVar) == "" {
		os.Exit(m.Run())
	}
	for begin := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		fmt.Println(time.Now().Unix(), int(time.Since(begin)/time.Second))
	}
}

// TestStep checks that a process has the time of day that Step gives it, while its other clock
// goes on.
func TestStep(t *testing.T) {
	if runtime.GOARCH != "amd64" || os.Geteuid() != 0 {
		harness.Missing(t, "the vDSO of another process is written as root, with machine code for amd64")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), clockVar+"=1")
	p := harness.Start(t, cmd)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, offset := range []time.Duration{0, 5 * time.Hour, -48 * time.Hour, 0} {
		if err := Step(p, program[strings.LastIndexByte(program, '/')+1:], offset); err != nil {
			t.Fatal(err)
		}
		harness.Await(t, "the clock", func() bool {
			lines := strings.Split(strings.TrimSpace(p.Out.String()), "\n")
			words := strings.Fields(lines[len(lines)-1])
			if len(words) != 2 {
				return false
			}
			now, _ := strconv.ParseInt(words[0], 10, 64)
			if len(words[1]) > 2 {
				t.Fatalf("%s seconds have passed", words[1])
			}
			return (time.Until(time.Unix(now, 0)) - offset).Abs() < 10*time.Second
		})
	}
}
