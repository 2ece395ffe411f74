{{/* The specification of a Job that works on the dumps: (dict "root" $ "script" "backup"), "firstBackup" or "restore". */}}
{{- define "wiki.databaseJob" -}}
{{- $root := .root }}
{{- $labels := dict "root" $root "component" "backup" "persistence" (merge (dict "enabled" true) $root.Values.backup.persistence) }}
{{- $values := merge (dict "resources" $root.Values.backup.resources) (omit $root.Values.postgresql "resources") }}
{{- $pod := dict "root" $root "values" $values -}}
spec:
  backoffLimit: 2
  activeDeadlineSeconds: 3600
  template:
    metadata:
      labels: {{- include "wiki.selectorLabels" $labels | nindent 8 }}
    spec:
      {{- include "wiki.podSpec" $pod | nindent 6 }}
      restartPolicy: Never
      containers:
        - name: {{ .script | kebabcase }}
          {{- include "wiki.container" $pod | nindent 10 }}
          command: [sh, -euc]
          args:
            - |
              # while the release is being installed there is no database yet
              until pg_isready --quiet; do sleep 1; done
              cd /backup
              {{- include (printf "wiki.%sScript" .script) $root | nindent 14 }}
          env:
            {{- include "wiki.libpqEnv" $root | trim | nindent 12 }}
            {{- if eq .script "restore" }}
            - name: DUMP
              value: ""
            {{- else }}
            - name: KEEP
              value: {{ $root.Values.backup.keep | quote }}
            {{- end }}
          volumeMounts:
            - name: data
              mountPath: /backup
            - name: tmp
              mountPath: /tmp
            {{- with include "wiki.caVolumeMount" $root }}
            {{- . | nindent 12 }}
            {{- end }}
      volumes:
        {{- include "wiki.dataVolume" $labels | nindent 8 }}
        - name: tmp
          emptyDir: {}
        {{- with include "wiki.caVolume" $root }}
        {{- . | nindent 8 }}
        {{- end }}
{{- end }}

{{- define "wiki.firstBackupScript" -}}
# if there are dumps of earlier data, one of a database that is still empty must not become the newest
set -- wiki-*.dump
if [ -f "$1" ]; then
  echo "there are dumps already"
  exit
fi
{{ include "wiki.backupScript" . }}
{{- end }}

{{- define "wiki.backupScript" -}}
# left by a killed one: none runs longer than an hour
find . -name 'wiki-*.dump.part' -mmin +60 -delete
dump=wiki-$(date -u +%Y%m%dT%H%M%SZ).dump
# under a temporary name until it is complete
trap 'rm -f "$dump.part"' EXIT
pg_dump --format=custom --file="$dump.part"
mv "$dump.part" "$dump"
echo "dumped $PGDATABASE to $dump"
# the names sort by time: the oldest come first
set -- wiki-*.dump
while [ $# -gt "$KEEP" ]; do
  rm "$1"
  echo "deleted $1"
  shift
done
{{- end }}

{{- define "wiki.restoreScript" -}}
# the newest, unless DUMP names another
for dump in wiki-*.dump; do :; done
dump=${DUMP:-$dump}
if [ ! -f "$dump" ]; then
  echo "no dump to restore: $dump" >&2
  exit 1
fi
# read to the end before anything is changed
if ! pg_restore --file=/dev/null "$dump"; then
  echo "nothing is changed: $dump is incomplete" >&2
  exit 1
fi
schema=$(psql --no-psqlrc --no-align --tuples-only --command='SELECT current_schema()')
case $(pg_restore --list "$dump") in
  *" TABLE $schema users "*) ;;
  *)
    echo "nothing is changed: $dump has no table users in the schema $schema" >&2
    exit 1
    ;;
esac
echo "restoring $PGDATABASE from $dump"
last=$(
  {
    cat <<'SQL'
{{ .Files.Get "restore.sql" | trim }}
SQL
    pg_restore --file=- --schema="$schema" --no-owner --no-privileges "$dump" && echo 'COMMIT;'
  } | psql --no-psqlrc --set=ON_ERROR_STOP=1 | tail -n 1
)
if [ "$last" != COMMIT ]; then
  echo "not restored: nothing is changed, unless only the answer to COMMIT was lost" >&2
  exit 1
fi
echo "restored $PGDATABASE from $dump"
{{- end }}
