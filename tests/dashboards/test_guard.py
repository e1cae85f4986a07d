import pytest
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from dashboards import guard
from dashboards.guard import COOKIE, LOGIN_PATH, TOKEN_HEADER, Guard

TOKEN = "correct-horse-battery"
HTML = {"Accept": "text/html"}


@Request.application
def behind(request):
    answer = Response(f"{request.method} {request.path}")
    answer.headers["Access-Control-Allow-Origin"] = "*"
    return answer


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(guard, "FAILED_DELAY_S", 0.0)


def client(*, token=None, read_only=False, loopback=True):
    return Client(Guard(behind, token=token, read_only=read_only, loopback=loopback))


WRITES = [
    ("POST", "/api/studies"),
    ("POST", "/api/studies/1/rename"),
    ("DELETE", "/api/studies/1"),
    ("PUT", "/api/studies/1/note"),
    ("PUT", "/api/studies/1/2/note"),
    ("POST", "/api/trials/1/tell"),
    ("POST", "/api/trials/1/user-attrs"),
    ("POST", "/api/studies/1/2/skip"),
    ("POST", "/incompatible-rdb-schema"),
    ("PATCH", "/anything"),
]


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_read_only_refuses_every_write(method, path):
    assert client().open(path, method=method).status_code == 200
    refused = client(read_only=True).open(path, method=method)
    assert refused.status_code == 403
    assert "--read-only" in refused.text


def test_read_only_lets_the_explorer_ask_questions():
    allowed = client(read_only=True).post("/explorer/_dash-update-component")
    assert allowed.status_code == 200
    assert client(read_only=True).get("/explorer/").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/explorer/_dash-update-component/x",
        "/explorer//_dash-update-component",
        "/_dash-update-component",
    ],
)
def test_nothing_else_is_taken_for_a_question(path):
    assert client(read_only=True).post(path).status_code == 403


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_artifacts_are_never_changed(method):
    assert client().open("/api/artifacts/1/2", method=method).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
    ],
)
def test_writes_that_another_site_started_are_refused(headers):
    assert client().post("/api/studies", headers=headers).status_code == 403
    assert client().post("/explorer/_dash-update-component", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers", [{}, {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}]
)
def test_our_own_pages_and_plain_clients_may_write(headers):
    assert client().post("/api/studies", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_was_pointed_at_this_machine_is_refused(host):
    assert client().get("/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080", "LOCALHOST"])
def test_names_of_this_machine_are_answered(host):
    assert client().get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {TOKEN_HEADER: "wrong"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {TOKEN_HEADER: ""},
        {TOKEN_HEADER: "é"},
        {"Cookie": f"{COOKIE}=guess"},
        {"Cookie": f"{COOKIE}={TOKEN}"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/explorer/", "/api/studies", "/artifacts/1/2/3"])
def test_without_the_right_token_there_is_nothing(headers, path):
    answer = client(token=TOKEN).get(path, headers=headers)
    assert answer.status_code == 401
    assert "GET" not in answer.text
    assert client(token=TOKEN).get(path, headers={**headers, **HTML}).status_code == 401


@pytest.mark.parametrize("headers", [{TOKEN_HEADER: TOKEN}, {"Authorization": f"Bearer {TOKEN}"}])
def test_the_token_opens(headers):
    answer = client(token=TOKEN, loopback=False).get("/x", headers={**headers, "Host": "box"})
    assert (answer.status_code, answer.text) == (200, "GET /x")


def test_signing_in_gives_a_cookie_that_is_not_the_token():
    browser = client(token=TOKEN)
    page = browser.get("/explorer/?study=a", headers=HTML)
    assert page.status_code == 401
    assert '<form method="post"' in page.text
    assert "next=/explorer/%3Fstudy%3Da" in page.text
    wrong = browser.post(f"{LOGIN_PATH}?next=/explorer/", data={"token": "wrong"})
    assert wrong.status_code == 401
    assert "Set-Cookie" not in wrong.headers
    right = browser.post(f"{LOGIN_PATH}?next=/explorer/", data={"token": TOKEN})
    assert (right.status_code, right.headers["Location"]) == (303, "/explorer/")
    cookie = right.headers["Set-Cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert browser.get("/explorer/").status_code == 200


def test_a_session_ends():
    browser = client(token=TOKEN)
    browser.post(LOGIN_PATH, data={"token": TOKEN})
    sessions = browser.application._sessions
    assert browser.get("/x").status_code == 200
    sessions.update(dict.fromkeys(sessions, 0.0))
    assert browser.get("/x").status_code == 401


@pytest.mark.parametrize(
    "target", ["//evil.example", "http://evil.example", "/\\evil.example", "/a\nb", "/login"]
)
def test_signing_in_never_leads_elsewhere(target):
    answer = client(token=TOKEN).post(
        LOGIN_PATH, query_string={"next": target}, data={"token": TOKEN}
    )
    assert answer.headers["Location"] == "/explorer/"


def test_a_login_from_another_site_and_a_huge_one_are_refused():
    browser = client(token=TOKEN)
    elsewhere = {"Origin": "http://evil.example"}
    assert browser.post(LOGIN_PATH, data={"token": TOKEN}, headers=elsewhere).status_code == 403
    assert browser.post(LOGIN_PATH, data={"token": "x" * 10_000}).status_code == 413


def test_a_token_protects_writes_too_and_read_only_holds_with_it():
    assert client(token=TOKEN).post("/api/studies").status_code == 401
    with_token = {TOKEN_HEADER: TOKEN}
    assert client(token=TOKEN).post("/api/studies", headers=with_token).status_code == 200
    strict = client(token=TOKEN, read_only=True)
    assert strict.post("/api/studies", headers=with_token).status_code == 403


@pytest.mark.parametrize("path", ["/x", "/api/artifacts/1"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_answer_has_the_headers_and_none_is_open_to_other_sites(path, method):
    answer = client().open(path, method=method)
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers
