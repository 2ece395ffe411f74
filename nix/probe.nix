{
  curl,
  gnugrep,
  jq,
  writeShellApplication,
}:

writeShellApplication {
  name = "probe";
  runtimeInputs = [
    curl
    gnugrep
    jq
  ];
  text = ''
    url=''${1:?give where the API is, such as http://localhost:8080}
    post() {
      curl --no-progress-meter --fail-with-body --json "$2" "$url/$1"
    }
    user=$(post users '{"name": "Alice"}')
    echo "$user"
    id=$(jq .id <<<"$user")
    curl --no-progress-meter --fail-with-body "$url/user/$id" | jq --exit-status --argjson user "$user" '. == $user' >/dev/null
    post posts "{\"user_id\": $id, \"content\": \"Hello World!\"}"
    echo
    curl --no-progress-meter --fail-with-body --output /dev/null "$url/docs"
    curl --no-progress-meter --fail-with-body "$url/metrics" | grep --extended-regexp '^(users|posts)_created_total'
    echo "$url answers"
  '';
}
