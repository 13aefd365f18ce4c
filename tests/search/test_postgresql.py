"""A study in a real PostgreSQL server, started for the test."""

import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from studies import make_study
from workers import finish_with_a_kill

from moelora.errors import OutputError
from moelora.search.ask import trials_of

pytestmark = pytest.mark.slow


def find_binaries() -> "Path | None":
    """Return the folder with initdb and postgres: on the path, or where Debian's packages put them, newest first."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    return next((place for place in places if (place / "initdb").is_file() and (place / "postgres").is_file()), None)


def as_server_user() -> list[str]:
    """Return what to put before a command: the server refuses to run as root."""
    if os.geteuid() != 0:
        return []
    for user in ("postgres", "nobody"):
        try:
            pwd.getpwnam(user)
        except KeyError:
            continue
        return ["runuser", "-u", user, "--"]
    pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return the URL of a database in a server of our own; it is stopped afterwards."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server found: apt-get install postgresql, or put initdb and postgres on the path")
    pytest.importorskip("psycopg", reason="PostgreSQL needs its driver: pip install moelora[postgresql]")
    user = as_server_user()
    # sockets have short paths, and another user must reach the folder
    folder = Path(subprocess.run([*user, "mktemp", "-d", "-t", "moelora-pg-XXXXXX"], check=True, text=True,
                                 stdout=subprocess.PIPE, cwd="/").stdout.strip())  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, log = folder / "data", folder / "log"

    def run(*command, **options):
        return subprocess.run([*user, *map(str, command)], check=True, cwd="/", stdout=subprocess.DEVNULL, **options)

    try:
        run(binaries / "initdb", "-D", data, "-U", "searcher", "-A", "trust", "--no-sync")
        settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run(binaries / "pg_ctl", "-D", data, "-l", log, "-w", "-o", settings, "start")
        try:
            run(binaries / "createdb", "-h", "127.0.0.1", "-p", port, "-U", "searcher", "studies")
            yield f"postgresql://searcher@127.0.0.1:{port}/studies"
        finally:
            run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        run("rm", "-rf", folder)


def test_four_workers_share_a_study_in_the_database_though_one_is_killed(server, tmp_path):
    study = make_study(tmp_path, storage=server, trials=20, seed=1)
    print(finish_with_a_kill(study))


def test_studies_stay_in_the_database(server, tmp_path):
    study = make_study(tmp_path, storage=server, trials=2, seed=2)
    study.open().ask()
    again = make_study(tmp_path / "elsewhere", storage=server, trials=2, seed=2)
    assert len(trials_of(again.open())) == 1
    assert not (tmp_path / "journal.log").exists()


def test_a_server_that_does_not_answer_is_named(server, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    with pytest.raises(OutputError, match=rf"database .*{closed}.* cannot be reached"):
        make_study(tmp_path, storage=f"postgresql://searcher@127.0.0.1:{closed}/studies")
