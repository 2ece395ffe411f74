# POSTGRES_USER, POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, POSTGRES_DB and PGDATA are as in the official image.
fail() {
  echo "$*" >&2
  exit 1
}

if [[ ${1:-postgres} == -* ]]; then
  set -- postgres "$@"
fi
if [[ ${1:-postgres} != postgres ]]; then
  exec "$@"
fi
for argument in "$@"; do
  case $argument in
    -'?' | --help | --describe-config | -V | --version) exec "$@" ;;
  esac
done

# A database is created in a folder of PGDATA, whose name says whether it is complete, and then moved out of it, PG_VERSION last.
# Only unfinished ones are ever deleted; if a finished one was left by a kill, the move continues.
unfinished=$PGDATA/initdb.unfinished
finished=$PGDATA/initdb.finished

# In a subshell, so that the server does not inherit any of this.
make_database() (
  # initdb and the like look up their user's name, which an arbitrary UID does not have.
  if ! id --user --name >/dev/null 2>&1; then
    NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
    trap 'rm "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"' EXIT
    echo "postgres:x:$(id --user):$(id --group):PostgreSQL:$PGDATA:/bin/false" >"$NSS_WRAPPER_PASSWD"
    echo "postgres:x:$(id --group):" >"$NSS_WRAPPER_GROUP"
    export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP LD_PRELOAD=$LIBNSS_WRAPPER
  fi
  initdb --pgdata="$unfinished" --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
    --auth-local=trust --auth-host=scram-sha-256 --no-instructions
  echo 'host all all all scram-sha-256' >>"$unfinished/pg_hba.conf"
  sync "$unfinished/pg_hba.conf"
  case $POSTGRES_DB in
    postgres | template0 | template1) ;; # there already
    *)
      echo "CREATE DATABASE \"${POSTGRES_DB//\"/\"\"}\"" |
        postgres --single -c exit_on_error=on -D "$unfinished" postgres >/dev/null
      ;;
  esac
)

if [[ ! -s $PGDATA/PG_VERSION ]]; then
  if [[ ! -d $finished ]]; then
    : "${POSTGRES_USER:=postgres}"
    : "${POSTGRES_DB:=$POSTGRES_USER}"
    if [[ -n ${POSTGRES_PASSWORD_FILE:-} ]]; then
      [[ -z ${POSTGRES_PASSWORD:-} ]] || fail "POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE are both set: set one of them"
      POSTGRES_PASSWORD=$(<"$POSTGRES_PASSWORD_FILE")
    fi
    [[ -n ${POSTGRES_PASSWORD:-} ]] || fail "$PGDATA contains no database yet, and there is no password" \
      "for the new one's user $POSTGRES_USER: set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE"

    mkdir --parents "$PGDATA"
    [[ -O $PGDATA ]] || fail "$PGDATA belongs to user $(stat --format=%u "$PGDATA"), and PostgreSQL," \
      "as user $(id --user), accepts only a folder that it owns: set PGDATA to a folder in it"
    rm --recursive --force "$unfinished"
    others=$(find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found -printf ' %f')
    [[ -z $others ]] || fail "$PGDATA contains no database (there is no PG_VERSION), but other files, which are left alone:" \
      "set PGDATA to an empty folder, or move them:$others"

    make_database
    mv --no-target-directory "$unfinished" "$finished"
  fi
  find "$finished" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv --target-directory="$PGDATA" {} +
  sync "$PGDATA" || true # not possible for a directory on some file systems
  mv "$finished/PG_VERSION" "$PGDATA"
fi
if [[ -d $finished ]]; then
  rmdir "$finished"
fi

# Kubernetes may have widened the mode for the pod's group, and PostgreSQL would not start.
chmod 00700 "$PGDATA" 2>/dev/null || true
exec postgres -c listen_addresses='*' "${@:2}"
