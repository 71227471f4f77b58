"""Who may: each test fails if its check is taken out."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from imageloom.errors import StorageError, UsageError
from imageloom.service.web import access
from imageloom.service.web.access import Access, Brake, TooManyAttempts, tokens_of
from imageloom.service.web.server import hosts_of, listen
from serving import Hosted, flow_of, hosted_in


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    with hosted_in(tmp_path_factory.mktemp("access")) as site:
        yield site


@pytest.fixture(autouse=True)
def _no_brake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong token of one test does not slow down the next one."""
    monkeypatch.setattr(access, "FIRST_PAUSE", 0.0)


@contextmanager
def _page(site: Hosted) -> Iterator[httpx.Client]:
    """A client that is logged in with a cookie, as a browser."""
    with site.client(Origin=site.url.rstrip("/")) as client:
        answer = client.post("login", data={"token": site.tokens["operator"]})
        assert answer.status_code == 303
        yield client


@pytest.mark.parametrize(
    "path", ["", "new", "flows/web", "jobs/1", "api/v1/flows", "api/v1/events", "metrics", "x"]
)
def test_nothing_is_shown_without_a_token(path: str, site: Hosted) -> None:
    with site.client() as client:
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert client.get(path, headers={"Authorization": "Bearer " + "x" * 43}).status_code == 401
        assert client.get(path, headers={"Authorization": site.tokens["operator"]}).status_code == 401
        assert client.get(path, headers={"Cookie": "imageloom=" + "x" * 43}).status_code == 401
        page = client.get(path, headers={"Accept": "text/html"})
        assert page.status_code == 303
        assert page.headers["location"].endswith("login")


@pytest.mark.parametrize("path", ["health", "ready", "login", "static/style.css", "static/live.js"])
def test_what_needs_no_token_says_nothing_of_the_work(path: str, site: Hosted) -> None:
    with site.client() as client:
        answer = client.get(path)
        assert answer.status_code == 200
        assert str(site.root) not in answer.text


def test_the_link_is_exchanged_once_for_a_cookie_that_scripts_cannot_read(tmp_path: Path) -> None:
    with hosted_in(tmp_path) as site, httpx.Client() as client, httpx.Client() as other:
        answer = client.get(site.link)
        assert answer.status_code == 303
        (cookie,) = answer.headers.get_list("set-cookie")
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert client.get(site.url).status_code == 200
        assert other.get(site.link).status_code == 401
        assert site.tokens["operator"] not in site.link
        value = cookie.partition("=")[2].partition(";")[0]
        stored = b"".join(path.read_bytes() for path in (tmp_path / "home").glob("service.db*"))
        assert value.encode() not in stored


def test_a_reader_sees_all_and_changes_nothing(site: Hosted) -> None:
    with site.client("operator") as operator, site.client("reader") as reader:
        text = flow_of(site.root, "reader")
        assert operator.put("api/v1/flows/reader", json={"text": text}).status_code == 200
        assert reader.get("api/v1/flows/reader").json()["text"] == text
        assert "Save" not in reader.get("flows/reader").text
        for method, path in (
            ("PUT", "api/v1/flows/reader"),
            ("DELETE", "api/v1/flows/reader"),
            ("POST", "api/v1/flows/reader/start"),
            ("PUT", "api/v1/flows/reader/upload?key=a.jpg"),
            ("POST", "api/v1/preview"),
            ("POST", "flows/reader"),
            ("POST", "new"),
        ):
            answer = reader.request(method, path, json={"text": text})
            assert (path, answer.status_code) == (path, 403)
            assert "reader" in answer.json()["detail"]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://evil.example:{port}"]
)
def test_a_change_from_a_page_elsewhere_is_refused(origin: str, site: Hosted) -> None:
    port = site.url.rstrip("/").rpartition(":")[2]
    with _page(site) as client:
        answer = client.post("flows/none", data={"do": "start"}, headers={"Origin": origin.format(port=port)})
        assert answer.status_code == 403
        assert "origin" in answer.json()["detail"]
        assert client.post("flows/none", data={"do": "start"}).status_code == 404
        del client.headers["origin"]
        assert client.post("flows/none", data={"do": "start"}).status_code == 403
        own = {"Sec-Fetch-Site": "same-origin"}
        assert client.post("flows/none", data={"do": "start"}, headers=own).status_code == 404
    with site.client("operator", Origin="http://evil.example") as client:
        assert client.post("api/v1/flows/none/start").status_code == 403


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "127.0.0.1:{port}.evil.example"],
)
def test_another_host_is_refused(host: str, site: Hosted) -> None:
    port = site.url.rstrip("/").rpartition(":")[2]
    with site.client("operator") as client:
        assert client.get("", headers={"Host": host.format(port=port)}).status_code == 421
        assert client.get("", headers={"Host": f"LOCALHOST:{port}"}).status_code == 200


def test_hosts_are_those_of_the_address_and_those_that_are_named() -> None:
    assert hosts_of("127.0.0.1:1", 5, ("Photos.example.org",)) == {
        "localhost:5", "127.0.0.1:5", "[::1]:5", "photos.example.org"
    }  # fmt: skip
    assert hosts_of("0.0.0.0:5", 5, ()) == set()
    assert hosts_of("10.1.2.3:5", 5, ()) == {"10.1.2.3:5"}
    assert hosts_of("photos.org:443", 443, ()) == {"photos.org", "photos.org:443"}  # browsers omit the port


@pytest.mark.parametrize("path", ["", "login", "static/live.js", "api/v1/flows", "none"])
def test_a_browser_is_told_what_pages_may_do(path: str, site: Hosted) -> None:
    with site.client("operator") as client:
        found = client.get(path).headers
    policy = found["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert found["x-content-type-options"] == "nosniff"
    assert found["referrer-policy"] == "same-origin"


def test_pages_have_no_code_in_them(site: Hosted) -> None:
    with site.client("operator") as client:
        client.put("api/v1/flows/inline", json={"text": flow_of(site.root, "inline")})
        for path in ("", "new", "flows/inline", "login"):
            text = client.get(path).text
            assert "<style" not in text
            assert " style=" not in text
            assert " onclick=" not in text
            assert text.count("<script") == text.count("<script src=")


def test_names_of_files_are_shown_as_text(site: Hosted) -> None:
    with site.client("operator") as client:
        text = "source: '<script>alert(1)</script>'\n"
        folder = site.root.parent / "home" / "flows"
        (folder / "evil.yaml").write_text(text)
        for path in ("", "flows/evil"):
            shown = client.get(path).text
            assert "<script>alert" not in shown
            assert "&lt;script&gt;alert" in shown
        (folder / "evil.yaml").unlink()


def test_wrong_tokens_are_slowed_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(access, "FIRST_PAUSE", 20.0)
    with hosted_in(tmp_path) as site, site.client() as client, _page(site) as page:
        assert client.get("api/v1/flows", headers={"Authorization": "Bearer wrong"}).status_code == 401
        answer = client.get("api/v1/flows", headers={"Authorization": f"Bearer {site.tokens['operator']}"})
        assert answer.status_code == 429
        assert 15 < int(answer.headers["retry-after"]) <= 21
        login = client.post(
            "login", data={"token": site.tokens["operator"]}, headers={"Origin": site.url.rstrip("/")}
        )
        assert login.status_code == 429
        assert client.get(site.link.removeprefix(site.url)).status_code == 429
        assert page.get("").status_code == 200, "who is logged in is not slowed down"


def test_pauses_double_and_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "FIRST_PAUSE", 1.0)
    now = 1000.0
    monkeypatch.setattr("imageloom.service.web.access.time.monotonic", lambda: now)
    brake = Brake()
    pauses = []
    for _ in range(9):
        brake.wrong("10.0.0.1")
        with pytest.raises(TooManyAttempts) as raised:
            brake.check("10.0.0.1")
        pauses.append(raised.value.seconds)
        now += raised.value.seconds
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    brake.check("10.0.0.2")
    now += 1000
    brake.check("10.0.0.1")
    for number in range(access.MOST_WRONG):
        brake.wrong(f"10.1.0.{number}")
    with pytest.raises(TooManyAttempts):
        brake.check("10.0.0.3")


def test_a_login_ends(site: Hosted) -> None:
    with _page(site) as client:
        cookies = dict(client.cookies)
        assert client.get("").status_code == 200
        assert client.post("logout").status_code == 303
        assert client.get("").status_code == 401
        name, value = next(iter(cookies.items()))
        assert client.get("", headers={"Cookie": f"{name}={value}"}).status_code == 401


def test_a_login_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imageloom.service.state import ServiceState

    state = ServiceState(tmp_path / "x" / "service.db")
    found = Access(state, {"operator": "o" * 30, "reader": "r" * 30})
    session = found.log_in("reader")
    assert found.role_of_session(session) == "reader"
    later = time.time() + access.LIFETIME + 1
    monkeypatch.setattr("imageloom.service.state.time.time", lambda: later)
    assert found.role_of_session(session) is None
    state.close()


def test_tokens_are_long_private_and_different(tmp_path: Path) -> None:
    made = tokens_of(tmp_path / "home", "", "")
    assert all(len(token) >= 40 for token in made.values())
    assert made == tokens_of(tmp_path / "home", "", "")
    assert (tmp_path / "home" / "operator.token").stat().st_mode & 0o077 == 0
    (tmp_path / "short").write_text("secret\n")
    with pytest.raises(UsageError, match="6 characters"):
        tokens_of(tmp_path / "home", str(tmp_path / "short"), "")
    with pytest.raises(UsageError, match="are equal"):
        tokens_of(tmp_path / "home", "", str(tmp_path / "home" / "operator.token"))
    with pytest.raises(StorageError):
        tokens_of(tmp_path / "home", str(tmp_path / "none"), "")


def test_other_machines_need_tls() -> None:
    for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:0"):
        with pytest.raises(UsageError, match="--certificate"):
            listen(address, has_tls=False)
    with pytest.raises(UsageError, match="HOST:PORT"):
        listen("localhost", has_tls=False)


def test_with_tls_the_cookie_is_sent_by_tls_only(tmp_path: Path) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(tmp_path / "c.pem")
    made.private_key_pem.write_to_path(tmp_path / "k.pem")
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    files = {"certificate": str(tmp_path / "c.pem"), "key": str(tmp_path / "k.pem")}
    with hosted_in(tmp_path, address=files) as site, httpx.Client(verify=trusted) as client:
        assert site.url.startswith("https://")
        answer = client.get(site.link)
        assert "; Secure" in answer.headers["set-cookie"]
        assert "strict-transport-security" in answer.headers
        assert client.get(site.url).status_code == 200
    (tmp_path / "k.pem").write_text("no key")
    with pytest.raises(UsageError, match="--certificate"), hosted_in(tmp_path, address=files):
        pass


def test_a_service_at_all_addresses_needs_a_name(tmp_path: Path) -> None:
    place: dict[str, Any] = {"address": "0.0.0.0:0", "behind_proxy": True}
    with pytest.raises(UsageError, match="--host"), hosted_in(tmp_path, address=place):
        pass
    with hosted_in(tmp_path, address={**place, "hosts": ("photos.example.org",)}) as site:
        assert site.link.startswith("https://photos.example.org/enter?code=")


@pytest.mark.parametrize(
    "key",
    [
        "../x.jpg",
        "/etc/x.jpg",
        "a/../../x.jpg",
        ".hidden.jpg",
        "a/.b/x.jpg",
        "x.txt",
        "x",
        "a\0.jpg",
        "link/x.jpg",
    ],
)
def test_an_upload_stays_in_its_folder(key: str, site: Hosted, tmp_path: Path) -> None:
    with site.client("operator") as client:
        client.put("api/v1/flows/place", json={"text": flow_of(site.root, "place")})
        link = site.root / "in-place" / "link"
        if not link.is_symlink():
            link.symlink_to(tmp_path)
        answer = client.put("api/v1/flows/place/upload", params={"key": key}, content=b"x")
        assert answer.status_code == 422
        assert list((site.root / "in-place").iterdir()) == [link]
        assert list(tmp_path.iterdir()) == []


def test_flows_stay_below_the_roots(site: Hosted, tmp_path: Path) -> None:
    """The checks of places are in test_serve_flows."""
    (tmp_path / "in-web").mkdir()
    with site.client("operator") as client:
        answer = client.put("api/v1/flows/web", json={"text": flow_of(tmp_path)})
        assert answer.status_code == 403
        assert "not below a root" in answer.json()["detail"]
        for source in (str(tmp_path), "/etc", "http://169.254.169.254/latest", "file:///etc"):
            body = {"source": source, "recipe": "grayscale"}
            assert client.post("api/v1/preview", json=body).status_code == 403
            assert client.post("api/v1/samples", json={"source": source}).status_code == 403


def test_operators_from_files_are_those_of_the_service(site: Hosted) -> None:
    (site.root / "ops.py").write_text("raise SystemExit('it was run')\n")
    recipe = {"operators": [str(site.root / "ops.py")], "outputs": {"a": "grayscale"}}
    with site.client("operator") as client:
        answer = client.put("api/v1/flows/ops", json={"text": flow_of(site.root, "ops", recipe=recipe)})
        assert answer.status_code == 422
        assert "was not run" in answer.json()["detail"]
