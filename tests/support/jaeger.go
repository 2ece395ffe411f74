// Package jaegerstorage is Jaeger's extension of that name with one kind of storage: memory.
package jaegerstorage

import (
	"context"
	"fmt"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"

	"github.com/jaegertracing/jaeger/internal/storage/v1"
	"github.com/jaegertracing/jaeger/internal/storage/v2/api/tracestore"
	"github.com/jaegertracing/jaeger/internal/storage/v2/memory"
	"github.com/jaegertracing/jaeger/internal/telemetry"

	configuration "github.com/jaegertracing/jaeger/internal/storage/v1/memory"
)

var ID = component.MustNewID("jaeger_storage")

type config struct {
	Backends map[string]struct {
		Memory configuration.Configuration `mapstructure:"memory"`
	} `mapstructure:"backends"`
}

type storages struct {
	config    *config
	telemetry component.TelemetrySettings
	factories map[string]tracestore.Factory
}

func NewFactory() extension.Factory {
	create := func(_ context.Context, set extension.Settings, given component.Config) (extension.Extension, error) {
		return &storages{given.(*config), set.TelemetrySettings, map[string]tracestore.Factory{}}, nil
	}
	empty := func() component.Config { return &config{} }
	return extension.NewFactory(ID.Type(), empty, create, component.StabilityLevelBeta)
}

func (s *storages) Start(_ context.Context, host component.Host) (err error) {
	for name, each := range s.config.Backends {
		s.factories[name], err = memory.NewFactory(each.Memory, telemetry.FromOtelComponent(s.telemetry, host))
		if err != nil {
			return err
		}
	}
	return nil
}

func (*storages) Shutdown(context.Context) error { return nil }

func GetTraceStoreFactory(name string, host component.Host) (tracestore.Factory, error) {
	found, ok := host.GetExtensions()[ID].(*storages)
	if !ok || found.factories[name] == nil {
		return nil, fmt.Errorf("no storage %s", name)
	}
	return found.factories[name], nil
}

func GetMetricStorageFactory(name string, _ component.Host) (storage.MetricStoreFactory, error) {
	return nil, fmt.Errorf("no storage %s of metrics", name)
}
