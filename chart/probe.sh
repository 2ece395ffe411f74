# Exercises every part of the API that is switched on for the caller: with identity and without a TOKEN it only reads. Deletes what
# it can, even after a failure. Needs a function `send METHOD PATH BODY [HEADER]...`, which puts the response into `answer`.

shopt -s nocasematch
json='Content-Type: application/json'
location=$'\nlocation: *[^\r]*/([0-9]+)'
tag=$'\netag: *([^\r]*)'
answer=''
made=()

clean_up() {
  for ((i = ${#made[@]}; i-- > 0; )); do
    send DELETE "${made[i]}" '' || true
  done
}
trap clean_up EXIT

fail() {
  echo "expected $1, got: $answer" >&2
  exit 1
}

# STATUSES METHOD PATH [BODY [HEADER]...]: fails if the status is none of these, separated by commas.
call() {
  local statuses=$1
  shift
  for _ in {1..30}; do
    send "$1" "$2" "${3-}" 'Cache-Control: no-cache' "${@:4}"
    head=${answer%%$'\r\n\r\n'*}
    # An index is still being built, or the rate limit was reached: nothing was written.
    [[ $head == *$'\nretry-after:'* ]] || break
    sleep 1
  done
  status=none id=''
  if [[ $head =~ ^HTTP/[^\ ]+\ ([0-9]+) ]]; then status=${BASH_REMATCH[1]}; fi
  if [[ $head =~ $location ]]; then id=${BASH_REMATCH[1]}; fi
  echo "$1 $2: $status"
  # An unknown path is a 404, too.
  [[ ,$statuses, == *,$status,* && $answer != *'there is nothing here;'* ]] || fail "$statuses"
}

# TEXT: the response contains it.
has() {
  [[ $answer == *"$1"* ]] || fail "$1"
}

# PATH: it exists, and then no longer does.
delete() {
  call 204 DELETE "$1"
  call 404 GET "$1"
}

# USER POST: everything that can be read of them.
read_all() {
  local list
  call 200 GET "/users/$1"
  call 200 GET "/user/$1"
  call 200 GET "/users/$1/posts"
  call 200,404 GET "/users/$1/picture"
  call 200 GET "/posts/$2"
  for list in revisions comments reactions attachments; do
    call 200 GET "/posts/$2/$list"
  done
  call 200 GET "/posts/$2/diff?from=1&to=1"
}

walk() {
  local newest user post etag comment attachment is_new='' path
  # With a key, every 503 may be retried.
  local key="Idempotency-Key: helm-test-$RANDOM$RANDOM$RANDOM"
  call 200 GET /docs
  call 200 GET /openapi.json
  call 200,401 GET '/users?limit=1'
  call 200,401,422 GET '/posts?q=wiki'
  call 200,401 GET '/posts?limit=1'
  newest=$answer

  if [[ ${TOKEN-} ]]; then
    call 201,409 POST /users '{"name": "helm test"}' "$json" "$key"
  else
    call 201,401 POST /users '{"name": "helm test"}' "$json" "$key"
  fi
  user=$id
  if [[ $status == 401 ]]; then
    if [[ $newest =~ \"post_id\":([0-9]+),.*\"user_id\":([0-9]+) ]]; then
      read_all "${BASH_REMATCH[2]}" "${BASH_REMATCH[1]}"
    fi
    echo 'nothing was written: that requires a token'
    return
  fi
  if [[ $status == 201 ]]; then
    is_new=1
    made+=("/users/$user")
  fi
  if [[ ${TOKEN-} ]]; then
    call 200 GET /users/me
  fi

  call 201 POST /posts "{\"user_id\": $user, \"content\": \"helm test\"}" "$json" "$key"
  post=$id
  made+=("/posts/$post")
  read_all "$user" "$post"
  call 200 GET "/posts/$post"
  has '"content":"helm test"'
  [[ $head =~ $tag ]] || fail ETag
  etag=${BASH_REMATCH[1]}
  call 304 GET "/posts/$post" '' "If-None-Match: $etag"

  call 200,403 PUT "/posts/$post" '{"content": "helm tested"}' "$json" "If-Match: $etag"
  if [[ $status == 403 ]]; then
    has 'EDITING is off'
    echo 'nothing was changed: EDITING is off'
    return
  fi
  call 412 PUT "/posts/$post" '{"content": "helm tests"}' "$json" "If-Match: $etag"
  call 428 PUT "/posts/$post" '{"content": "helm tests"}' "$json"
  call 200 GET "/posts/$post"
  has '"content":"helm tested"'
  call 200 GET "/posts/$post?revision=1"
  has '"content":"helm test"'
  call 200 GET "/posts/$post/diff?from=1&to=2"
  has '+helm tested'

  call 201 POST "/posts/$post/comments" "{\"user_id\": $user, \"content\": \"helm test\"}" "$json" "$key"
  comment=$id
  call 200 GET "/comments/$comment"
  call 200 GET "/posts/$post/comments"
  has "\"comment_id\":$comment,"

  call 204 PUT "/posts/$post/reactions/heart" "{\"user_id\": $user}" "$json"
  call 200 GET "/posts/$post/reactions"
  has '"heart":1'
  call 204 DELETE "/posts/$post/reactions/heart?user_id=$user"
  call 200 GET "/posts/$post/reactions"
  has '"heart":0'

  call 201 POST "/posts/$post/attachments" 'helm test' 'Content-Type: text/plain' \
    'Content-Disposition: attachment; filename="test.txt"'
  attachment=$id
  call 200 GET "/attachments/$attachment"
  has $'\r\n\r\nhelm test'
  # A user that existed before may have a picture already.
  if [[ $is_new ]]; then
    call 201,204 PUT "/users/$user/picture" 'GIF89a' 'Content-Type: image/gif'
    call 200 GET "/users/$user/picture"
  fi

  for path in "/comments/$comment" "/attachments/$attachment" ${is_new:+"/users/$user/picture"} "/posts/$post" ${is_new:+"/users/$user"}; do
    if [[ ${TOKEN-} ]]; then
      delete "$path"
    else
      call 403 DELETE "$path"
      has 'EDITING is anyone'
    fi
  done
  made=()
}

walk
