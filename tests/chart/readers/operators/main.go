// Reads what the chart hands to operators with those operators' own types: an unknown field or one of a wrong type is an error.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	cnpg "github.com/cloudnative-pg/cloudnative-pg/api/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

func main() {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	read := 0
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		exit(err)
		var object struct{ APIVersion, Kind string }
		exit(yaml.Unmarshal(document, &object))
		into := map[string]any{
			"postgresql.cnpg.io/v1 Cluster":           &cnpg.Cluster{},
			"monitoring.coreos.com/v1 ServiceMonitor": &monitoring.ServiceMonitor{},
			"monitoring.coreos.com/v1 PrometheusRule": &monitoring.PrometheusRule{},
		}[object.APIVersion+" "+object.Kind]
		if into == nil {
			continue
		}
		exit(yaml.UnmarshalStrict(document, into))
		fmt.Println(object.Kind)
		read++
	}
	if read == 0 {
		exit(errors.New("nothing for an operator"))
	}
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
