"""Code generated from the OpenAPI document."""

import os
import re
import shutil
import sys
from pathlib import Path

import httpx
import pytest

from support import generators
from support.generators import run
from support.service import Service

pytestmark = pytest.mark.parametrize("shared_service", ["sqlite"], indirect=True)


def need(*programs: str) -> None:
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"no {program}, which a client generator needs")


@pytest.fixture
def document(shared_service: Service, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_text(httpx.get(f"{shared_service.url}/openapi.json").text)
    return path


def test_typescript(document: Path, tmp_path: Path) -> None:
    need("npm")
    programs = generators.typescript()
    run(programs / "openapi-typescript", document, "-o", tmp_path / "wiki.ts")
    (tmp_path / "use.ts").write_text(
        'import type { components, operations } from "./wiki";\n'
        'const post: components["schemas"]["NewPost"] = { user_id: 1, content: "x" };\n'
        'type Answer = operations["create_post"]["responses"][201]["content"];\n'
        'type Post = Answer["application/json"];\n'
        "export const id = (created: Post): number => created.post_id + post.user_id;\n"
    )
    run(programs / "tsc", "--noEmit", "--strict", "use.ts", cwd=tmp_path)


def test_python(shared_service: Service, document: Path, tmp_path: Path) -> None:
    packages = generators.python()
    paths = {"PYTHONPATH": f"{packages}:{tmp_path}", "PATH": f"{packages}/bin:{os.environ['PATH']}"}
    generate = ("generate", "--path", document, "--output-path", tmp_path / "wiki", "--meta=none")
    # Not by its first line: that names the Python of the checkout which installed it.
    run(sys.executable, packages / "bin/openapi-python-client", *generate, **paths)
    (tmp_path / "use.py").write_text(
        "from wiki import Client\n"
        "from wiki.api.users import create_user, read_user\n"
        "from wiki.models import NewUser, Problem\n"
        f"client = Client({shared_service.url!r})\n"
        "user = create_user.sync(client=client, body=NewUser(name='Ada'))\n"
        "assert read_user.sync(user.id, client=client) == user\n"
        "assert user.name == 'Ada'\n"
        "nobody = read_user.sync(2**63 - 1, client=client)\n"
        "assert isinstance(nobody, Problem) and nobody.status == 404\n"
    )
    run(sys.executable, tmp_path / "use.py", **paths)


def test_spring(document: Path, tmp_path: Path) -> None:
    """Its annotations refuse a value before it is sent."""
    need("java", "mvn")
    command = ("java", "-XX:TieredStopAtLevel=1", "-jar", generators.java(), "generate")
    run(
        *command, "-g", "spring", "-i", document, "-o", tmp_path, "--global-property", "models,apis"
    )
    text = "".join(path.read_text() for path in tmp_path.rglob("*.java"))
    assert set(re.findall(r"@(?:Decimal)?M(?:ax|in)\([^)]*\)", text)) == {
        "@Min(value = 0L)",
        f"@Max(value = {2**63 - 1}L)",
        # A page's limit.
        "@Min(value = 1)",
        "@Max(value = 100)",
    }
    pattern = re.search(
        r'regexp = "(\^\[[^"]*)"', (tmp_path.rglob("NewUser.java").__next__()).read_text()
    )
    assert pattern
    (tmp_path / "Use.java").write_text(
        "class Use { public static void main(String[] texts) {\n"
        f'var pattern = java.util.regex.Pattern.compile("{pattern[1]}");\n'
        "for (var text : texts) System.out.print(pattern.matcher(text).matches() ? 1 : 0); } }\n"
    )
    assert run("java", tmp_path / "Use.java", "x", " ", "\u2003", "é", "\u2003x") == "10011"
