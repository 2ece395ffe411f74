import pytest
from chart import tools


@pytest.fixture(params=["helm3", "helm4"], scope="session")
def helm(request: pytest.FixtureRequest) -> tools.Helm:
    """Each Helm that users have."""
    return tools.Helm(tools.install(request.param))


@pytest.fixture(scope="session")
def helm3() -> tools.Helm:
    """The Helm of the cluster image."""
    return tools.Helm(tools.install("helm3"))
