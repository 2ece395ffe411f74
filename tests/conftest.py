import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page

from support import cluster as clusters
from support import databases, service
from support import nix as nix_support
from support import previous as previous_version
from support.browser import chromium
from support.cluster import Cluster
from support.databases import Database, Postgres, PostgresDatabase, SqliteDatabase
from support.nix import Nix
from support.service import Service, StartService


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="tests of faults at length, in release")


# Files that take minutes, of the service and of the chart in a Kubernetes.
LONGEST = (
    *("test_bad_input", "test_traces", "test_outage"),
    *("test_release", "test_faults", "test_scaling", "test_upgrades", "test_postgresql_17"),
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First those that wait for a Docker, and the longest files. In their turn, cores would be idle
    when all others are done."""

    def position(item: pytest.Item) -> int:
        if uses(item, "docker"):
            return -1
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=position)


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--long")


@pytest.fixture(scope="session")
def program(long: bool) -> Path:
    return service.build(release=long)


@pytest.fixture(scope="session")
def previous() -> Path:
    """The previous version's program."""
    try:
        return previous_version.build()
    except previous_version.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[Path]:
    template = databases.initdb()
    yield template
    shutil.rmtree(template.parent)


@pytest.fixture(scope="session")
def postgres(postgres_template: Path) -> Iterator[Postgres]:
    """The PostgreSQL that most tests share, each with its own database."""
    server = Postgres(postgres_template).start()
    yield server
    server.remove()


@pytest.fixture
def own_postgres(postgres_template: Path) -> Iterator[Postgres]:
    """A PostgreSQL for a single test, which may break it."""
    server = Postgres(postgres_template).start()
    yield server
    server.remove()


@pytest.fixture
def postgres_database(postgres: Postgres) -> PostgresDatabase:
    return postgres.create_database()


@pytest.fixture
def sqlite_database(tmp_path: Path) -> SqliteDatabase:
    return SqliteDatabase(tmp_path / "wiki.db")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """An empty database; the test that asks for it runs on each kind."""
    kinds = {"sqlite": "sqlite_database", "postgresql": "postgres_database"}
    return request.getfixturevalue(kinds[request.param])


@pytest.fixture
def start_service(program: Path, tmp_path: Path) -> Iterator[StartService]:
    """Starts the service on a database, with extra variables; waits for it unless told not to."""
    started: list[Service] = []

    def start(
        database: Database | None = None,
        /,
        *,
        until: str = "ready",
        host: str = "127.0.0.1",
        wrapper: tuple[str, ...] = (),
        preexec_fn: Callable[[], None] | None = None,
        version: Path = program,
        **variables: Any,
    ) -> Service:
        settings = (database.environment if database else {}) | {
            name: str(value) for name, value in variables.items()
        }
        one = Service(
            version, tmp_path, settings, host=host, wrapper=wrapper, preexec_fn=preexec_fn
        )
        started.append(one)
        match until:
            case "ready":
                one.wait_until_ready()
            case "listening":
                one.wait_until_listening()
        return one

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def shared_service(
    request: pytest.FixtureRequest, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service with the defaults on each kind of database, for tests that leave it as it was."""
    directory = tmp_path_factory.mktemp(f"shared-{request.param}")
    database: Database = SqliteDatabase(directory / "wiki.db")
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres").create_database()
    shared = Service(program, directory, database.environment).wait_until_ready()
    yield shared
    shared.close()


@pytest.fixture
def api(shared_service: Service) -> httpx.Client:
    return shared_service.client


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture(scope="session")
def nix() -> Nix:
    try:
        return nix_support.find()
    except nix_support.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with clusters.cluster(tmp_path_factory.mktemp("cluster")) as found:
        if not found:
            pytest.skip("no Kubernetes: neither WIKI_TEST_KUBE nor k3d with a running Docker")
        yield found


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM ends the tests like Ctrl-C: along with what they started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "kubernetes: needs Kubernetes, like all that use `cluster`")
    config.addinivalue_line("markers", "alone: what runs beside it in a Kubernetes would notice")


def pytest_itemcollected(item: pytest.Item) -> None:
    if uses(item, "cluster"):
        item.add_marker("kubernetes")


def uses(item: pytest.Item, fixture: str) -> bool:
    return fixture in getattr(item, "fixturenames", ())


class AtOnce:
    """Also shows a failure when it happens, and not only at the end."""

    def __init__(self, terminal: pytest.TerminalReporter):
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\nFAILED {report.nodeid}\n{report.longreprtext}")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    plugins = session.config.pluginmanager
    if terminal := plugins.get_plugin("terminalreporter"):
        plugins.register(AtOnce(terminal))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """Shows, with a failure, what the services wrote during the test."""
    report = yield
    logs = [(one.port, one.new_text()) for one in service.live]
    if report.failed:
        for port, text in logs:
            tail = "\n".join(text.splitlines()[-60:])
            report.sections.append((f"log of the service on port {port}", tail))
    return report
