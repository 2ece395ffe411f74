"""The OpenAPI document: what it says, and that it is true."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import Page

from support.helm import go

SNAPSHOT = Path(__file__).parent / "openapi.json"
OPERATIONS = {
    ("POST", "/users"): {"201", "400", "408", "413", "415", "422", "500", "503"},
    ("GET", "/users"): {"200", "304", "422", "500", "503"},
    ("GET", "/user/{id}"): {"200", "304", "404", "422", "500", "503"},
    ("GET", "/users/{id}"): {"200", "304", "404", "422", "500", "503"},
    ("GET", "/users/{id}/posts"): {"200", "304", "404", "422", "500", "503"},
    ("GET", "/posts"): {"200", "304", "422", "500", "503"},
    ("POST", "/posts"): {"201", "400", "404", "408", "413", "415", "422", "500", "503"},
    ("GET", "/posts/{id}"): {"200", "304", "404", "422", "500", "503"},
    ("PUT", "/posts/{id}"): {
        *("200", "400", "403", "404", "408", "412", "413", "415", "422", "428", "500", "503")
    },
    ("DELETE", "/posts/{id}"): {"204", "403", "404", "412", "422", "500", "503"},
    ("GET", "/posts/{id}/revisions"): {"200", "304", "404", "422", "500", "503"},
    ("GET", "/posts/{id}/diff"): {"200", "404", "422", "500", "503"},
    ("DELETE", "/users/{id}"): {"204", "403", "404", "409", "422", "500", "503"},
    ("GET", "/posts/{id}/comments"): {"200", "304", "404", "422", "500", "503"},
    ("POST", "/posts/{id}/comments"): {
        *("201", "400", "403", "404", "408", "413", "415", "422", "500", "503")
    },
    ("GET", "/comments/{id}"): {"200", "304", "404", "422", "500", "503"},
    ("DELETE", "/comments/{id}"): {"204", "403", "404", "422", "500", "503"},
    ("GET", "/posts/{id}/reactions"): {"200", "304", "404", "422", "500", "503"},
    ("PUT", "/posts/{id}/reactions/{kind}"): {
        *("204", "400", "403", "404", "408", "413", "415", "422", "500", "503")
    },
    ("DELETE", "/posts/{id}/reactions/{kind}"): {"204", "403", "404", "422", "500", "503"},
    ("PUT", "/users/{id}/picture"): {
        *("201", "204", "400", "403", "404", "408", "413", "415", "422", "500", "503")
    },
    ("GET", "/users/{id}/picture"): {"200", "206", "304", "404", "416", "422", "500", "503"},
    ("DELETE", "/users/{id}/picture"): {"204", "403", "404", "422", "500", "503"},
    ("POST", "/posts/{id}/attachments"): {
        *("201", "400", "403", "404", "408", "409", "413", "415", "422", "500", "503")
    },
    ("GET", "/posts/{id}/attachments"): {"200", "304", "404", "422", "500", "503"},
    ("GET", "/attachments/{id}"): {"200", "206", "304", "404", "416", "422", "500", "503"},
    ("DELETE", "/attachments/{id}"): {"204", "403", "404", "422", "500", "503"},
}


@pytest.fixture
def document(api: httpx.Client) -> dict[str, Any]:
    return api.get("/openapi.json").json()


def test_it_is_the_one_that_was_agreed_on(document: dict[str, Any]) -> None:
    document["info"].pop("version")
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text(), (
        "the API's document has changed; if that is meant, run UPDATE_SNAPSHOTS=1 ./test.sh service"
    )


def test_json_and_yaml_say_the_same(api: httpx.Client, document: dict[str, Any]) -> None:
    assert yaml.safe_load(api.get("/openapi.yaml").text) == document


def test_ids_are_all_that_64_bits_hold(document: dict[str, Any]) -> None:
    """As whole numbers: generated validation compares with what is written here."""
    text = json.dumps(document)
    assert text.count('"int64"') == text.count('"maximum": 9223372036854775807,') > 5
    assert "exclusiveM" not in text
    numbers = re.findall(r'"(?:minimum|maximum)": ([^,}]+)', text)
    assert all(number.isdigit() for number in numbers), set(numbers)


def test_users_and_posts_come_first(api: httpx.Client, document: dict[str, Any]) -> None:
    """In the pages, too, which keep this order."""
    order = ["Users", "Posts", "Comments", "Reactions", "Operations"]
    assert [tag["name"] for tag in document["tags"]] == order
    operations = [o for item in document["paths"].values() for o in item.values()]
    assert list(dict.fromkeys(o["tags"][0] for o in operations)) == order
    for page in ("/docs", "/redoc"):
        held = re.search(r"let spec = (\{.*?^\});?$", api.get(page).text, re.M | re.S)
        assert held
        assert json.loads(held[1]) == document


def test_every_operation_is_there_with_every_response(document: dict[str, Any]) -> None:
    described = {
        (method.upper(), path): set(operation["responses"])
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if (method.upper(), path) in OPERATIONS
    }
    assert described == OPERATIONS


def test_everything_has_words_and_examples(document: dict[str, Any]) -> None:
    assert document["info"]["title"]
    assert document["info"]["description"]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            name = f"{method} {path}"
            assert operation.get("summary"), f"{name} has no summary"
            for parameter in operation.get("parameters", []):
                assert parameter.get("description"), f"{name}: {parameter['name']} is not described"
            for status, response in operation["responses"].items():
                assert response.get("description"), f"{name}: {status} is not described"
    for schema, definition in document["components"]["schemas"].items():
        for name, field in definition.get("properties", {}).items():
            assert field.get("description"), f"{schema}.{name} has no description"
    for schema in ("User", "Post"):
        definition = document["components"]["schemas"][schema]
        assert set(definition["example"]) == set(definition["properties"]), schema


def test_errors_are_documented_as_problems(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert set(response["content"]) == {"application/problem+json"}, (
                        f"{method} {path}: {status}"
                    )


def request_schema(document: dict[str, Any], path: str) -> dict[str, Any]:
    content = document["paths"][path]["post"]["requestBody"]["content"]
    reference = next(iter(content.values()))["schema"]["$ref"]
    return document["components"]["schemas"][reference.rsplit("/", 1)[1]]


def test_limits_are_in_the_schema(document: dict[str, Any]) -> None:
    name = request_schema(document, "/users")["properties"]["name"]
    content = request_schema(document, "/posts")["properties"]["content"]
    assert (name["minLength"], name["maxLength"]) == (1, 200)
    assert (content["minLength"], content["maxLength"]) == (1, 100_000)


SPACES = [
    *(chr(code) for code in (*range(0x21), *range(0x7F, 0xA1), 0x1680, 0x180E, 0x3000, 0xFEFF)),
    *(chr(code) for code in (*range(0x2000, 0x2010), 0x2028, 0x2029, 0x202F, 0x205F, 0x2060)),
]


class Dialects:
    """Regular expressions as generated clients and validators read them."""

    def __init__(self, page: Page, directory: Path):
        self.page = page
        self.program = directory / "main.go"
        self.program.write_text(
            "package main\n"
            'import ("encoding/json"; "os"; "regexp")\n'
            "func main() {\n"
            "var in struct { Pattern string; Texts []string }\n"
            "if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil { panic(err) }\n"
            "pattern, out := regexp.MustCompile(in.Pattern), []bool{}\n"
            "for _, text := range in.Texts { out = append(out, pattern.MatchString(text)) }\n"
            "json.NewEncoder(os.Stdout).Encode(out)\n"
            "}\n"
        )

    def ecmascript(self, pattern: str, texts: list[str]) -> list[bool]:
        """What OpenAPI means."""
        return self.page.evaluate(
            "([pattern, texts]) => texts.map(text => new RegExp(pattern, 'u').test(text))",
            [pattern, texts],
        )

    def re2(self, pattern: str, texts: list[str]) -> list[bool]:
        """Go, and so kin-openapi."""
        return json.loads(
            subprocess.run(
                [go(), "run", self.program],
                input=json.dumps({"Pattern": pattern, "Texts": texts}),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
        )

    def pcre2(self, pattern: str, texts: list[str]) -> list[bool]:
        """PHP, here as grep has it."""
        found = subprocess.run(
            ["grep", "--perl-regexp", "--null-data", "--line-number", pattern],
            input="".join(f"{text}\0" for text in texts),
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.returncode in (0, 1), found.stderr
        matches = {int(match.split(":", 1)[0]) for match in found.stdout.split("\0") if match}
        return [number in matches for number, _ in enumerate(texts, 1)]

    def python(self, pattern: str, texts: list[str]) -> list[bool]:
        return [bool(re.search(pattern, text)) for text in texts]


# of an Idempotency-Key
KEYS = ["k-1", '"k-2"', 'a"b', '"a\\"b"', '"a\\\\b"', "x" * 255, f'"{"x" * 254}\\""', "a,b;c", "\\"]
NO_KEYS = ['"', '""', '"a', '"a"b', '"a\\b"', '"a\\"', "a b", '"a b"', "x" * 256, f'"{"x" * 256}"']


# of If-Match
TAGS = ["*", '"a"', 'W/"a"', '""', '"a,b" , W/"c"', ",".join(['"a"'] * 100)]
NO_TAGS = ["a", '"a', '"a" "b"', '*,"a"', 'w/"a"', ",".join(['"a"'] * 101)]


def post_by(api: httpx.Client, key: str) -> httpx.Response:
    return api.post("/users", json={"name": "Ada"}, headers={"Idempotency-Key": key})


@pytest.mark.parametrize("shared_service", ["sqlite"], indirect=True)
def test_patterns_mean_the_same_in_every_dialect_and_here(
    api: httpx.Client, document: dict[str, Any], page: Page, tmp_path: Path
) -> None:
    dialects = Dialects(page, tmp_path)
    judges = (dialects.ecmascript, dialects.re2, dialects.pcre2, dialects.python)
    patterns = set(
        map(json.loads, re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(document)))
    )
    name = request_schema(document, "/users")["properties"]["name"]["pattern"]
    content = request_schema(document, "/posts")["properties"]["content"]["pattern"]
    assert name == content
    key = next(pattern for pattern in patterns if pattern.startswith("^([!"))
    assert {post_by(api, text).status_code for text in KEYS} == {201}
    assert {post_by(api, text).status_code for text in NO_KEYS} == {422}
    for judge in judges:
        judged = judge(key, KEYS + NO_KEYS)
        assert judged == [True] * len(KEYS) + [False] * len(NO_KEYS), judge.__name__
    search = next(
        each["schema"]["pattern"]
        for each in document["paths"]["/posts"]["get"]["parameters"]
        if each["name"] == "q"
    )
    for judge in judges:
        assert judge(search, ["two words", "x"]) == [True, True], judge.__name__
        # NUL ends a text for grep.
        assert judge == dialects.pcre2 or judge(search, ["a\0b"]) == [False], judge.__name__
    tags = next(pattern for pattern in patterns if "W/" in pattern)
    for judge in judges:
        judged = judge(tags, TAGS + NO_TAGS)
        assert judged == [True] * len(TAGS) + [False] * len(NO_TAGS), judge.__name__
    for pattern in patterns - {name, key, search, tags}:
        example = "about:blank" if "blank" in pattern else "2024-12-14T10:30:00.123456"
        for judge in judges:
            assert judge(pattern, [example, "x"]) == [True, False], f"{judge.__name__}: {pattern}"
    texts = [text for space in SPACES for text in (space, space * 2, f"{space}x", f"x{space}")]
    taken = {text: api.post("/users", json={"name": text}).status_code == 201 for text in texts}
    for judge in judges:
        some = [text for text in texts if judge != dialects.pcre2 or "\0" not in text]
        judged = dict(zip(some, judge(name, some), strict=True))
        differing = {text for text in some if judged[text] != taken[text]}
        assert differing == set(), f"{judge.__name__} and the service do not agree on these"
