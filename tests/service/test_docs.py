"""The documentation pages in a browser that can reach no other host."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from support.browser import PrefixProxy, Visit
from support.service import Service

pytestmark = pytest.mark.parametrize("shared_service", ["sqlite"], indirect=True)


@pytest.fixture(params=["direct", "behind a prefix"])
def base_url(request: pytest.FixtureRequest, shared_service: Service) -> Iterator[str]:
    if request.param == "direct":
        yield shared_service.url
        return
    proxy = PrefixProxy(shared_service.port, "/wiki")
    yield proxy.url
    proxy.close()


@pytest.fixture
def visit(page: Page) -> Iterator[Visit]:
    visit = Visit(page)
    yield visit
    page.wait_for_load_state("networkidle")
    assert visit.complaints == []
    assert len(visit.hosts) == 1, f"the page asked other hosts: {visit.hosts}"


def test_the_root_leads_to_the_docs(base_url: str, visit: Visit) -> None:
    visit.page.goto(f"{base_url}/")
    expect(visit.page).to_have_url(f"{base_url}/docs")
    expect(visit.page.locator("#operations-tag-Users, .opblock").first).to_be_visible()


def test_swagger_ui_shows_every_operation(base_url: str, visit: Visit) -> None:
    visit.page.goto(f"{base_url}/docs")
    for path in ("/users", "/user/{id}", "/users/{id}", "/posts", "/posts/{id}"):
        expect(visit.page.locator(f'.opblock [data-path="{path}"]').first).to_be_visible()


def test_try_it_out_creates_a_user(base_url: str, visit: Visit, shared_service: Service) -> None:
    page = visit.page
    page.goto(f"{base_url}/docs")
    operation = page.locator(".opblock-post").filter(
        has=page.locator('.opblock-summary-path[data-path="/users"]')
    )
    operation.locator(".opblock-summary-control").first.click()
    operation.locator(".try-out__btn").click()
    operation.locator("textarea.body-param__text").fill('{"name": "From the page"}')
    operation.locator("button.execute").click()
    live = operation.locator(".live-responses-table .response").first
    expect(live.locator(".response-col_status")).to_contain_text("201")
    user = json.loads(live.locator(".response-col_description pre").first.inner_text())
    assert user["name"] == "From the page"
    assert shared_service.client.get(f"/users/{user['id']}").json() == user


def test_redoc_shows_every_operation(base_url: str, visit: Visit) -> None:
    visit.page.goto(f"{base_url}/redoc")
    for path in ("/users", "/user/{id}", "/users/{id}", "/posts", "/posts/{id}"):
        expect(visit.page.get_by_text(path, exact=True).first).to_be_attached()


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_pages_are_whole_html(shared_service: Service, browser: Browser, path: str) -> None:
    page = browser.new_page()
    page.goto(f"{shared_service.url}{path}")
    assert page.evaluate("document.compatMode") == "CSS1Compat", "the page lacks a doctype"
    assert page.title()
    page.close()


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/openapi.yaml"])
def test_what_a_browser_has_it_need_not_load_again(shared_service: Service, path: str) -> None:
    first = shared_service.client.get(path)
    again = shared_service.client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    stale = shared_service.client.get(path, headers={"if-none-match": '"another"'})
    assert stale.content == first.content


def test_a_trailing_slash_behind_a_prefix(base_url: str, visit: Visit) -> None:
    visit.page.goto(f"{base_url}/docs/")
    expect(visit.page).to_have_url(f"{base_url}/docs")
    expect(visit.page.locator(".opblock").first).to_be_visible()
