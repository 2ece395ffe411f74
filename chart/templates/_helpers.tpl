{{/* The prefix of every name: the release's name, and the chart's unless the release's contains it. Short enough for suffixes. */}}
{{- define "wiki.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- .Values.fullnameOverride | default $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels that select a component's pods: (dict "root" $ "component" "api") */}}
{{- define "wiki.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of every object of a component. */}}
{{- define "wiki.labels" -}}
{{ include "wiki.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* An image's name: (dict "root" $ "image" .Values.api.image) */}}
{{- define "wiki.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.global.imageRegistry -}}
{{- $parts := splitList "/" $repository -}}
{{- if and (rest $parts) (regexMatch "[.:]|^localhost$" (first $parts)) }}{{ $parts = rest $parts }}{{ end -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (join "/" $parts) -}}
{{- end -}}
{{- $repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* From names of Secrets, or objects with a name, as in Kubernetes. */}}
{{- define "wiki.imagePullSecrets" -}}
{{- $secrets := list }}
{{- range .Values.global.imagePullSecrets }}{{ $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}{{ end }}
{{- with $secrets }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* What all pods have in common: (dict "root" $ "values" .Values.api), values being the component's, and
     "serviceAccountName" for the one that talks to Kubernetes. */}}
{{- define "wiki.podSpec" -}}
# a Service called "wiki" would put WIKI_PORT=tcp://… into the environment
enableServiceLinks: false
{{- with .serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: {{ hasKey . "serviceAccountName" }}
{{- /* A volume whose root has the right group is left alone: PostgreSQL refuses data that its group may write. The policy is set even
       where the chart sets no group, since OpenShift sets one at admission. */}}
{{- $own := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") "fsGroupChangePolicy" "OnRootMismatch" }}
securityContext: {{- merge (deepCopy (.values.podSecurityContext | default dict)) $own | toYaml | nindent 2 }}
{{- with include "wiki.imagePullSecrets" .root }}
imagePullSecrets: {{- . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What all containers have in common: the same argument. */}}
{{- define "wiki.container" -}}
image: {{ include "wiki.image" (dict "root" .root "image" .values.image) }}
imagePullPolicy: {{ .root.Values.global.imagePullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- with .values.resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A container's environment: (dict "own" "- name: …" "extra" .Values.api.extraEnv). If a name is in both, only the
     user's is kept, since server-side apply, which Helm 4 uses, refuses a list that has it twice. */}}
{{- define "wiki.env" -}}
{{- $env := list }}
{{- $names := list }}
{{- range .extra }}{{ $names = append $names .name }}{{ end }}
{{- range fromYamlArray .own }}{{ if not (has .name $names) }}{{ $env = append $env . }}{{ end }}{{ end }}
{{- concat $env (.extra | default list) | toYaml }}
{{- end }}

{{/* Under Argo CD the database comes before what uses it. A volume claim has to be in the same wave as the pod that
     mounts it: many storage classes do not bind it before then. */}}
{{- define "wiki.databaseWave" -}}
argocd.argoproj.io/sync-wave: "-1"
{{- end }}

{{/* A component's volume claim, kept on uninstall: (dict "root" $ "component" "grafana" "persistence" …) */}}
{{- define "wiki.claim" -}}
{{- $labels := include "wiki.labels" . | fromYaml }}
{{- /* So that deleting a release's data by this label spares the backups. No release's name contains a "_". */}}
{{- if eq .component "backup" }}{{ $_ := set $labels "app.kubernetes.io/instance" (printf "%s_backup" .root.Release.Name) }}{{ end -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "wiki.fullname" .root }}-{{ .component }}
  labels: {{- toYaml $labels | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
    argocd.argoproj.io/sync-options: Prune=false
    {{- if eq .component "postgresql" }}
    {{- include "wiki.databaseWave" . | nindent 4 }}
    {{- end }}
spec:
  accessModes: [ReadWriteOnce]
  {{- with .persistence.storageClass }}
  storageClassName: {{ eq . "-" | ternary "" . | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ .persistence.size }}
{{- end }}

{{/* The claim that a component mounts: the same argument. */}}
{{- define "wiki.claimName" -}}
{{- .persistence.existingClaim | default (printf "%s-%s" (include "wiki.fullname" .root) .component) -}}
{{- end }}

{{/* A component's volume named `data`: the same argument. */}}
{{- define "wiki.dataVolume" -}}
- name: data
  {{- if eq .persistence.enabled false }}
  emptyDir: {}
  {{- else }}
  persistentVolumeClaim:
    claimName: {{ include "wiki.claimName" . | quote }}
  {{- end }}
{{- end }}

{{/* A file of rules or dashboards, restricted to this release's series: names are never used as a regular expression that could match
     another release's, as `wiki-.+` matches `wiki-2-postgresql`. */}}
{{- define "wiki.file" -}}
{{- $values := .root.Values }}
{{- $claims := list "FULLNAME-database-[0-9]+(-wal)?" }}
{{- range $component, $persistence := dict "postgresql" $values.postgresql.primary.persistence "prometheus" $values.prometheus.persistence "grafana" $values.grafana.persistence "backup" $values.backup.persistence }}
{{- $claims = append $claims (include "wiki.claimName" (dict "root" $.root "component" $component "persistence" $persistence) | replace "." "[.]") }}
{{- end -}}
{{- .root.Files.Get .path
    | replace "CLAIMS" (join "|" $claims)
    | replace "PODS" "FULLNAME-((api|grafana|backup|restore)-[a-z0-9]+-[a-z0-9]{5}|(postgresql|prometheus)-0|database-[0-9]+)"
    | replace "DATABASE_LIMIT_BYTES" (include "wiki.databaseLimit" .root)
    | replace "NAMESPACE" .root.Release.Namespace
    | replace "FULLNAME" (include "wiki.fullname" .root) -}}
{{- end }}

{{/* The rules that apply to what is installed. */}}
{{- define "wiki.rules" -}}
{{- $applies := dict "wiki-api" .Values.api.enabled "wiki-database" (and .Values.api.enabled (include "wiki.databaseLimit" .)) "wiki-volumes" true }}
{{- $groups := list }}
{{- range (include "wiki.file" (dict "root" . "path" "prometheus-rules.yml") | fromYaml).groups }}
{{- if get $applies .name }}{{ $groups = append $groups . }}{{ end }}
{{- end -}}
groups: {{- toYaml $groups | nindent 2 }}
{{- end }}

{{/* The number of bytes in a Kubernetes quantity such as 512Mi. */}}
{{- define "wiki.bytes" -}}
{{- $quantity := kindIs "float64" . | ternary (int64 . | toString) (toString .) }}
{{- $number := regexFind "^[0-9.]+" $quantity }}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 }}
{{- mulf (float64 $number) (get $units (trimPrefix $number $quantity)) | int64 -}}
{{- end }}

{{/* The size above which the database may fill the chart's own volume, which also holds the write-ahead log, a gibibyte by
     PostgreSQL's default. Empty if the chart does not set the volume's size. */}}
{{- define "wiki.databaseLimit" -}}
{{- with .Values.postgresql.primary.persistence }}
{{- if and (include "wiki.postgresql" $) .enabled (not .existingClaim) }}
{{- $size := include "wiki.bytes" .size | float64 }}
{{- maxf (subf (mulf $size 0.85) 1073741824) (divf $size 2) | int64 -}}
{{- end }}
{{- end }}
{{- end }}

{{/* Which database: builtin, external or cloudnativepg. */}}
{{- define "wiki.database" -}}
{{- if and .Values.externalDatabase.host .Values.cloudnativepg.enabled }}
{{- fail "externalDatabase.host and cloudnativepg.enabled are both set: choose one database" }}
{{- else if .Values.externalDatabase.host -}} external
{{- else if .Values.cloudnativepg.enabled -}} cloudnativepg
{{- else -}} builtin
{{- end -}}
{{- end }}

{{/* PGHOST … PGPASSWORD for libpq's tools, wherever the database is. */}}
{{- define "wiki.libpqEnv" -}}
{{- $database := include "wiki.database" . -}}
{{- if eq $database "cloudnativepg" }}
{{- range $name, $key := dict "PGHOST" "host" "PGPORT" "port" "PGUSER" "username" "PGDATABASE" "dbname" "PGPASSWORD" "password" }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ include "wiki.fullname" $ }}-database-app
      key: {{ $key }}
{{- end }}
{{- else }}
{{- $builtin := eq $database "builtin" }}
{{- $auth := ternary .Values.postgresql.auth .Values.externalDatabase $builtin }}
- name: PGHOST
  value: {{ ternary (printf "%s-postgresql" (include "wiki.fullname" .)) (.Values.externalDatabase.host | default "" | trimAll "[]") $builtin | quote }}
- name: PGPORT
  value: {{ ternary 5432 .Values.externalDatabase.port $builtin | int | quote }}
- name: PGUSER
  value: {{ $auth.username | quote }}
- name: PGDATABASE
  value: {{ $auth.database | quote }}
{{- if not $builtin }}
- name: PGSSLMODE
  value: {{ .Values.externalDatabase.sslmode }}
{{- if .Values.externalDatabase.caSecret }}
- name: PGSSLROOTCERT
  value: /etc/ssl/database/ca.crt
{{- end }}
{{- end }}
- name: PGPASSWORD
  valueFrom: {{- include "wiki.databasePassword" . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "wiki.databasePassword" -}}
secretKeyRef:
{{- if eq (include "wiki.database" .) "external" }}
  name: {{ .Values.externalDatabase.existingSecret | default (printf "%s-database" (include "wiki.fullname" .)) | quote }}
  key: {{ .Values.externalDatabase.existingSecret | empty | ternary "password" .Values.externalDatabase.existingSecretKey | quote }}
{{- else }}
  name: {{ .Values.postgresql.auth.existingSecret | default (printf "%s-postgresql" (include "wiki.fullname" .)) | quote }}
  key: password
{{- end }}
{{- end }}

{{/* Escapes a text for the part of a URL before the "?", where a "+" is not a space. */}}
{{- define "wiki.urlPart" -}}
{{- urlquery . | replace "+" "%20" -}}
{{- end }}

{{/* DATABASE_URL, with a separate PGPASSWORD, so that no password has to be escaped in a URL. */}}
{{- define "wiki.databaseEnv" -}}
{{- $database := include "wiki.database" . -}}
{{- if eq $database "cloudnativepg" }}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "wiki.fullname" . }}-database-app
      key: uri
{{- else }}
- name: DATABASE_URL
  {{- if eq $database "external" }}
  {{- with .Values.externalDatabase }}
  value: {{ printf "postgres://%s@%s:%d/%s?sslmode=%s%s" (include "wiki.urlPart" .username) (contains ":" .host | ternary (printf "[%s]" (trimAll "[]" .host)) .host) (int .port) (include "wiki.urlPart" .database) .sslmode (empty .caSecret | ternary "" "&sslrootcert=/etc/ssl/database/ca.crt") | quote }}
  {{- end }}
  {{- else }}
  {{- with .Values.postgresql.auth }}
  value: {{ printf "postgres://%s@%s-postgresql:5432/%s" (include "wiki.urlPart" .username) (include "wiki.fullname" $) (include "wiki.urlPart" .database) | quote }}
  {{- end }}
  {{- end }}
- name: PGPASSWORD
  valueFrom: {{- include "wiki.databasePassword" . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "wiki.caVolumeMount" -}}
{{- if and .Values.externalDatabase.host .Values.externalDatabase.caSecret }}
- name: database-ca
  mountPath: /etc/ssl/database
  readOnly: true
{{- end }}
{{- end }}

{{- define "wiki.caVolume" -}}
{{- if and .Values.externalDatabase.host .Values.externalDatabase.caSecret }}
- name: database-ca
  secret:
    secretName: {{ .Values.externalDatabase.caSecret | quote }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}

{{/* Whether a Prometheus runs in the release. */}}
{{- define "wiki.prometheus" -}}
{{- if and .Values.prometheus.enabled (not .Values.prometheus.operator.enabled) }}true{{ end -}}
{{- end }}

{{/* Whether the chart's own PostgreSQL runs in the release. */}}
{{- define "wiki.postgresql" -}}
{{- if and .Values.postgresql.enabled (eq (include "wiki.database" .) "builtin") }}true{{ end -}}
{{- end }}

{{/* Grafana's address for a browser. Without a single host, wherever the browser found it: the Ingress or a port-forward. */}}
{{- define "wiki.grafanaUrl" -}}
{{- with .Values.ingress -}}
{{- if and .enabled .host (not (hasPrefix "*" .host)) -}}
{{ ternary "http" "https" (empty .tls) }}://{{ .host }}/grafana/
{{- else -}}
%(protocol)s://%(domain)s:%(http_port)s/grafana/
{{- end -}}
{{- end -}}
{{- end }}
