// Reads dashboards with the types that Grafana publishes for them, strictly: an unknown field, one of a wrong type or a
// missing one is an error, and what is read is written back without loss.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	failed := false
	for _, path := range os.Args[1:] {
		if err := check(path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

func check(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var read dashboard.Dashboard
	// where there are no errors, this version returns an empty list of them, which is not nil
	if err := read.UnmarshalJSONStrict(raw); err != nil && err.Error() != "" {
		return err
	}
	// and for that reason forgets the panels
	if err := json.Unmarshal(raw, &read); err != nil {
		return err
	}
	if err := read.Validate(); err != nil {
		return err
	}
	written, err := json.Marshal(read)
	if err != nil {
		return err
	}
	return contains(decode(written), decode(raw), "")
}

func decode(raw []byte) any {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if err := decoder.Decode(&value); err != nil {
		panic(err)
	}
	return value
}

// contains says which part of `want` is not in `have`. The types add their defaults, which is no loss.
func contains(have, want any, where string) error {
	switch want := want.(type) {
	case map[string]any:
		fields, ok := have.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is lost", where)
		}
		for key, value := range want {
			if err := contains(fields[key], value, where+"."+key); err != nil {
				return err
			}
		}
	case []any:
		items, ok := have.([]any)
		if !ok && len(want) > 0 || len(items) != len(want) {
			return fmt.Errorf("%s is lost", where)
		}
		for index, value := range want {
			if err := contains(items[index], value, fmt.Sprintf("%s[%d]", where, index)); err != nil {
				return err
			}
		}
	default:
		if !reflect.DeepEqual(have, want) {
			return fmt.Errorf("%s is %v, not %v", where, have, want)
		}
	}
	return nil
}
