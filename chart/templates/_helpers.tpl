{{/* The start of every name: the release's, and the chart's where the release's does not say it. Short enough for suffixes. */}}
{{- define "wiki.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- .Values.fullnameOverride | default $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels that select a component's pods: (dict "root" $ "component" "api") */}}
{{- define "wiki.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
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
{{- $registry := .root.Values.global.imageRegistry | trimSuffix "/" -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ .image.repository -}}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* What every pod has in common: (dict "root" $ "values" .Values.api), values being the component's, and
     "serviceAccountName" for the one that talks to Kubernetes. */}}
{{- define "wiki.podSpec" -}}
# a Service called "wiki" would put WIKI_PORT=tcp://… into the environment
enableServiceLinks: false
{{- with .serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: {{ hasKey . "serviceAccountName" }}
securityContext:
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
  {{- with .values.podSecurityContext }}
  # a volume whose root is right is left as it is: PostgreSQL refuses data that its group may write
  fsGroupChangePolicy: OnRootMismatch
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
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

{{/* What every container has in common: the same argument. */}}
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

{{/* A container's environment: (dict "own" "- name: …" "extra" .Values.api.extraEnv). A name that is in both is left to the user
     alone, since server-side apply, which Helm 4 uses, refuses a list that has it twice. */}}
{{- define "wiki.env" -}}
{{- $env := list }}
{{- $names := list }}
{{- range .extra }}{{ $names = append $names .name }}{{ end }}
{{- range fromYamlArray .own }}{{ if not (has .name $names) }}{{ $env = append $env . }}{{ end }}{{ end }}
{{- concat $env .extra | toYaml }}
{{- end }}

{{/* Under Argo CD the database is there before what uses it. A volume claim has to be in the same wave as the pod that
     mounts it: many classes bind it no sooner. */}}
{{- define "wiki.databaseWave" -}}
argocd.argoproj.io/sync-wave: "-1"
{{- end }}

{{/* A component's volume claim, kept on uninstall: (dict "root" $ "component" "grafana" "persistence" …) */}}
{{- define "wiki.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "wiki.fullname" .root }}-{{ .component }}
  labels: {{- include "wiki.labels" . | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
    argocd.argoproj.io/sync-options: Prune=false
    {{- if eq .component "postgresql" }}
    {{- include "wiki.databaseWave" . | nindent 4 }}
    {{- end }}
spec:
  accessModes: [ReadWriteOnce]
  {{- with .persistence.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ .persistence.size }}
{{- end }}

{{/* A component's volume named `data`: the same argument. */}}
{{- define "wiki.dataVolume" -}}
- name: data
  {{- if eq .persistence.enabled false }}
  emptyDir: {}
  {{- else }}
  persistentVolumeClaim:
    claimName: {{ .persistence.existingClaim | default (printf "%s-%s" (include "wiki.fullname" .root) .component) }}
  {{- end }}
{{- end }}

{{/* A file of rules or dashboards, made to select this release's series only. */}}
{{- define "wiki.file" -}}
{{- .root.Files.Get .path | replace "NAMESPACE" .root.Release.Namespace | replace "FULLNAME" (include "wiki.fullname" .root) -}}
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
  value: {{ ternary (printf "%s-postgresql" (include "wiki.fullname" .)) (trimAll "[]" .Values.externalDatabase.host) $builtin | quote }}
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
  name: {{ .Values.externalDatabase.existingSecret | default (printf "%s-database" (include "wiki.fullname" .)) }}
  key: {{ ternary .Values.externalDatabase.existingSecretKey "password" (ne .Values.externalDatabase.existingSecret "") }}
{{- else }}
  name: {{ .Values.postgresql.auth.existingSecret | default (printf "%s-postgresql" (include "wiki.fullname" .)) }}
  key: password
{{- end }}
{{- end }}

{{/* DATABASE_URL, and PGPASSWORD beside it, so that no password has to be escaped into a URL. */}}
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
  value: {{ printf "postgres://%s@%s:%d/%s?sslmode=%s%s" (urlquery .username) (contains ":" .host | ternary (printf "[%s]" (trimAll "[]" .host)) .host) (int .port) (urlquery .database) .sslmode (ternary "&sslrootcert=/etc/ssl/database/ca.crt" "" (ne .caSecret "")) | quote }}
  {{- end }}
  {{- else }}
  {{- with .Values.postgresql.auth }}
  value: {{ printf "postgres://%s@%s-postgresql:5432/%s" (urlquery .username) (include "wiki.fullname" $) (urlquery .database) | quote }}
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
    secretName: {{ .Values.externalDatabase.caSecret }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}

{{/* Whether a Prometheus runs in the release. */}}
{{- define "wiki.prometheus" -}}
{{- if and .Values.prometheus.enabled (not .Values.prometheus.operator.enabled) }}true{{ end -}}
{{- end }}

{{/* Whether a PostgreSQL of the chart's own runs in the release. */}}
{{- define "wiki.postgresql" -}}
{{- if and .Values.postgresql.enabled (eq (include "wiki.database" .) "builtin") }}true{{ end -}}
{{- end }}

{{/* Where Grafana is for a browser. Without a host, wherever the browser found it: the Ingress or a port-forward. */}}
{{- define "wiki.grafanaUrl" -}}
{{- with .Values.ingress -}}
{{- if and .enabled .host -}}
{{ ternary "https" "http" (gt (len .tls) 0) }}://{{ .host }}/grafana/
{{- else -}}
%(protocol)s://%(domain)s:%(http_port)s/grafana/
{{- end -}}
{{- end -}}
{{- end }}
