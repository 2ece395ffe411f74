"""The OpenAPI document: what it says, and that it is true."""

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import Page

SNAPSHOT = Path(__file__).parent / "openapi.json"
OPERATIONS = {
    ("POST", "/users"): {"201", "400", "408", "413", "415", "422", "500", "503"},
    ("GET", "/user/{id}"): {"200", "404", "422", "500", "503"},
    ("GET", "/users/{id}"): {"200", "404", "422", "500", "503"},
    ("POST", "/posts"): {"201", "400", "404", "408", "413", "415", "422", "500", "503"},
    ("GET", "/posts/{id}"): {"200", "404", "422", "500", "503"},
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


@pytest.mark.parametrize("shared_service", ["sqlite"], indirect=True)
def test_the_pattern_accepts_what_the_service_accepts(
    api: httpx.Client, document: dict[str, Any], page: Page
) -> None:
    """Judged by a browser's regular expressions, since ECMA 262's are what OpenAPI means."""
    pattern = request_schema(document, "/users")["properties"]["name"]["pattern"]
    candidates = [text for space in SPACES for text in (space, space * 2, f"{space}x", f"x{space}")]
    by_pattern = page.evaluate(
        "([pattern, texts]) => texts.map(text => new RegExp(pattern, 'u').test(text))",
        [pattern, candidates],
    )
    differing = [
        text
        for text, allowed in zip(candidates, by_pattern, strict=True)
        if (api.post("/users", json={"name": text}).status_code == 201) != allowed
    ]
    assert differing == [], f"{pattern} and the service do not agree on these"
