// Package tap writes results in the Test Anything Protocol, version 13 (https://testanything.org).
// It has what the checks of runtimes call, under the name by which they import it.
package tap

import (
	"encoding/json"
	"fmt"
	"strings"
)

// T counts results and prints them.
type T struct {
	count *int
	todo  bool
}

// New starts a list of results.
func New() *T { return &T{count: new(int)} }

// Header prints the version, and the plan unless it is written at the end.
func (t *T) Header(plan int) {
	fmt.Println("TAP version 13")
	if plan > 0 {
		fmt.Printf("1..%d\n", plan)
	}
}

// AutoPlan prints how many results there were.
func (t *T) AutoPlan() { fmt.Printf("1..%d\n", *t.count) }

// Ok prints one result.
func (t *T) Ok(passed bool, description string) {
	*t.count++
	result := "not ok"
	if passed {
		result = "ok"
	}
	if t.todo {
		// Readers of the protocol take any case.
		description += " # todo"
	}
	fmt.Printf("%s %d - %s\n", result, *t.count, description)
}

// Todo returns what prints results that nobody relies on yet.
func (t *T) Todo() *T { return &T{count: t.count, todo: true} }

// Pass prints a result that is good.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Fail prints one that is not.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Skip prints count results that were not looked for.
func (t *T) Skip(count int, why string) {
	for ; count > 0; count-- {
		*t.count++
		fmt.Printf("ok %d # SKIP %s\n", *t.count, why)
	}
}

// YAML prints details of the result before it; JSON is YAML.
func (t *T) YAML(details interface{}) error {
	text, err := json.MarshalIndent(details, "  ", "  ")
	if err == nil {
		fmt.Printf("  ---\n  %s\n  ...\n", text)
	}
	return err
}

// Diagnostic prints a remark.
func (t *T) Diagnostic(remark string) {
	fmt.Println("# " + strings.ReplaceAll(remark, "\n", "\n# "))
}

// Diagnosticf prints a remark by a format.
func (t *T) Diagnosticf(format string, values ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}
