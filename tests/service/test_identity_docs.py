"""The documentation pages with a token issuer, and no other host reachable."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from support import tokens
from support.browser import Visit
from support.service import StartService
from support.tokens import Issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with tokens.issuer() as one:
        yield one


def test_authorize_takes_a_token(page: Page, start_service: StartService, issuer: Issuer) -> None:
    service, visit = start_service(**issuer.variables), Visit(page)
    page.goto(f"{service.url}/docs")
    page.locator(".scheme-container .authorize").click()
    page.locator(".auth-container input").fill(issuer.token("ada"))
    page.locator(".auth-btn-wrapper .authorize").click()
    page.locator(".close-modal").click()
    operation = page.locator(".opblock-post").filter(
        has=page.locator('.opblock-summary-path[data-path="/users"]')
    )
    operation.locator(".opblock-summary-control").first.click()
    operation.locator(".try-out__btn").click()
    operation.locator("textarea.body-param__text").fill('{"name": "Ada"}')
    operation.locator("button.execute").click()
    live = operation.locator(".live-responses-table .response").first
    expect(live.locator(".response-col_status")).to_contain_text("201")
    page.goto(f"{service.url}/redoc")
    expect(page.get_by_text("/users/me", exact=True).first).to_be_attached()
    assert visit.complaints == []
    assert len(visit.hosts) == 1
