# POSTGRES_USER, POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, POSTGRES_DB and PGDATA are those of the official image.
if [[ ${1:-postgres} == -* ]]; then
  set -- postgres "$@"
fi
if [[ ${1:-postgres} != postgres ]]; then
  exec "$@"
fi

if [[ ! -s $PGDATA/PG_VERSION ]]; then
  : "${POSTGRES_USER:=postgres}"
  : "${POSTGRES_DB:=$POSTGRES_USER}"
  if [[ -n ${POSTGRES_PASSWORD_FILE:-} ]]; then
    POSTGRES_PASSWORD=$(<"$POSTGRES_PASSWORD_FILE")
  fi
  if [[ -z ${POSTGRES_PASSWORD:-} ]]; then
    echo "$PGDATA holds no database yet, and there is no password for the new one's user $POSTGRES_USER:" \
      "set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE" >&2
    exit 1
  fi

  # Made under another name and then moved, so that one killed halfway is not taken for a database.
  # Where PGDATA is the volume itself there is no place beside it.
  new=$PGDATA.new
  if [[ -d $PGDATA ]]; then
    new=$PGDATA
  else
    rm -rf "$new"
  fi
  initdb --pgdata="$new" --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
    --auth-local=trust --auth-host=scram-sha-256
  echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
  if [[ $POSTGRES_DB != postgres ]]; then
    echo "CREATE DATABASE \"${POSTGRES_DB//\"/\"\"}\"" | postgres --single -D "$new" postgres >/dev/null
  fi
  if [[ $new != "$PGDATA" ]]; then
    mv "$new" "$PGDATA"
  fi
fi

exec postgres -c listen_addresses='*' "${@:2}"
