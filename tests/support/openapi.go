// Prometheus without a description of its API.
package v1

import (
	"log/slog"
	"net/http"
)

type OpenAPIOptions struct {
	ExternalURL, Version string
	MaxSearchLimit       int
}

type OpenAPIBuilder struct{}

func NewOpenAPIBuilder(OpenAPIOptions, *slog.Logger) *OpenAPIBuilder { return &OpenAPIBuilder{} }

func (*OpenAPIBuilder) WrapHandler(next http.HandlerFunc) http.HandlerFunc { return next }

func (*OpenAPIBuilder) ServeOpenAPI(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
