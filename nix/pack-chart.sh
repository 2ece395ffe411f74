# Writes the chart in the folder $1 as an archive with the same bytes at any time.
tar --create --sort=name --mtime=@315532800 --owner=0 --group=0 --numeric-owner --mode=u=rw,go=r,a+X \
  --directory="$(dirname "$1")" "$(basename "$1")" | gzip --no-name
