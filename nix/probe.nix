{
  curl,
  gnugrep,
  writeShellApplication,
}:

writeShellApplication {
  name = "probe";
  runtimeInputs = [
    curl
    gnugrep
  ];
  text = ''
    url=''${1:?give where the API is, such as http://localhost:8080}
    send() {
      local header options=()
      for header in "''${@:4}"; do
        options+=(--header "$header")
      done
      if [[ $3 ]]; then
        options+=(--data-binary "$3")
      fi
      # Not on the command line, where everyone could read the token.
      answer=$(curl --no-progress-meter --http1.1 --include --request "$1" --header @- "''${options[@]}" "$url$2" \
        < <(printf '%s' "''${TOKEN:+Authorization: Bearer $TOKEN}"))
    }
    ${builtins.readFile ../chart/probe.sh}
    send GET /metrics ""
    grep --extended-regexp '^(users|posts|comments)_created_total' <<<"$answer"
    echo "$url answers"
  '';
}
