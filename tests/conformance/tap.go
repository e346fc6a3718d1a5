// Package tap prints the Test Anything Protocol. The programs of runtime-tools import github.com/mndrix/tap-go, which
// Debian does not package: this has what of it they call.
package tap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// T counts the tests of one program.
type T struct {
	// Writer is where the lines go, the standard output if it is nil.
	Writer io.Writer

	count *int
	todo  bool
}

// New returns a T that has counted nothing.
func New() *T {
	return &T{count: new(int)}
}

// Header begins the output; a plan of 0 tests is left to AutoPlan.
func (t *T) Header(tests int) {
	t.print("TAP version 13")
	if tests > 0 {
		t.print("1..%d", tests)
	}
}

// AutoPlan ends the output with the number of tests that there were.
func (t *T) AutoPlan() {
	t.print("1..%d", *t.count)
}

// Ok is one test and its outcome.
func (t *T) Ok(passed bool, description string) {
	*t.count++
	outcome := "ok"
	if !passed {
		outcome = "not ok"
	}
	mark := "-"
	if t.todo {
		mark = "# TODO"
	}
	t.print("%s %d %s %s", outcome, *t.count, mark, description)
}

// Pass is a test that passed.
func (t *T) Pass(description string) {
	t.Ok(true, description)
}

// Fail is a test that failed.
func (t *T) Fail(description string) {
	t.Ok(false, description)
}

// Skip counts tests that are not made.
func (t *T) Skip(tests int, description string) {
	for i := 0; i < tests; i++ {
		*t.count++
		t.print("ok %d # SKIP %s", *t.count, description)
	}
}

// Todo returns a T of the same count, whose tests are expected to fail.
func (t *T) Todo() *T {
	todo := *t
	todo.todo = true
	return &todo
}

// Diagnostic prints a message that is no outcome.
func (t *T) Diagnostic(message string) {
	t.print("# %s", strings.ReplaceAll(strings.TrimRight(message, "\n"), "\n", "\n# "))
}

// Diagnosticf is Diagnostic with a format.
func (t *T) Diagnosticf(format string, values ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}

// YAML prints details of the test before it, as JSON, which is YAML too.
func (t *T) YAML(details interface{}) error {
	text, err := json.MarshalIndent(details, "  ", "  ")
	if err != nil {
		return err
	}
	t.print("  ---\n  %s\n  ...", text)
	return nil
}

func (t *T) print(format string, values ...interface{}) {
	writer := t.Writer
	if writer == nil {
		writer = os.Stdout
	}
	fmt.Fprintf(writer, format+"\n", values...)
}
