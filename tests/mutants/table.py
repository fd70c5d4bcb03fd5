"""Every guard that keeps a job from being lost, run twice or overwritten, and the tests that should miss it.

A guard that moved must be found again: its text stands once in its file, or `test_table.py` fails. Names of tests
stand for both pairs of engines where they hold `{pair}`; guards of Python are tried on the pair that starts faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tests.mutants.run import Edit, Mutant

_SQL: Final = "jobserver/store/sql"
_LUA: Final = "jobserver/stream/scripts"

_STORE: Final = "tests/store/test_jobs.py::"
_LOCKS: Final = "tests/store/test_locks.py::"
_CALLBACKS: Final = "tests/store/test_callbacks.py::"
_TELLING: Final = "tests/builtin/test_callback.py::"
_STREAM: Final = "tests/stream/test_jobs.py::"
_FULL: Final = "tests/stream/test_outages.py::"
_RECLAIM: Final = "tests/upkeep/test_reclaim.py::"
_RECONCILE: Final = "tests/upkeep/test_reconcile.py::"
_PULSE: Final = "tests/upkeep/test_pulse.py::"
_HEART: Final = "tests/upkeep/test_heartbeat.py::"
_CONSUME: Final = "tests/pipeline/test_consume.py::"
_COMMANDS: Final = "tests/pipeline/test_commands.py::"
_HELD: Final = "tests/pipeline/test_held.py::"
_POLICY: Final = "tests/job/test_lifecycle.py::"
_SERVER: Final = "tests/test_server.py::"
_EVENTS: Final = "tests/stream/test_events.py::"
_LIVE: Final = "tests/http/test_live.py::"
_ACCESS: Final = "tests/http/test_access.py::"
_SESSION: Final = "tests/http/test_session.py::"

_NOT_CONFIRMED: Final = f"{_STORE}test_a_settlement_whose_commit_was_not_confirmed_is_recognised[sqlite]"
_BEATS: Final = f"{_PULSE}test_leases_may_be_judged_after_a_full_lease_of_own_beats[sqlite]"

Texts = tuple[str, str] | tuple[tuple[str, str], ...]


def _edits(texts: Texts) -> tuple[Edit, ...]:
    if isinstance(texts[0], str):
        return (Edit(texts[0], str(texts[1])),)
    return tuple(Edit(find, replace) for find, replace in texts)


def _guard(guard: str, file: str, texts: Texts, *tests: str) -> Mutant:
    return Mutant(guard, file, _edits(texts), tests)


def _statement(
    guard: str, statement: str, texts: dict[str, Texts], *tests: str, shared: bool = False
) -> Iterator[Mutant]:
    """The guard of a statement that the two dialects say each in its own file.

    `shared`: on PostgreSQL it is in the part that several statements have in common.
    """
    for dialect, name in (("postgresql", "PostgreSQL"), ("sqlite", "SQLite")):
        if dialect in texts:
            file = f"{_SQL}/{dialect}/{statement}.{'part' if shared and dialect == 'postgresql' else 'sql'}"
            yield _guard(
                f"{statement}: {guard} ({name})", file, texts[dialect], *(t.replace("{pair}", dialect) for t in tests)
            )


def _permits(*statuses: str) -> tuple[str, ...]:
    """The test of the drawn transitions, on a job in these statuses."""
    return tuple(
        f"{_STORE}test_sql_permits_exactly_the_transitions_that_are_drawn[{{pair}}-{status}]" for status in statuses
    )


def _same(texts: Texts) -> dict[str, Texts]:
    return {"postgresql": texts, "sqlite": texts}


_WAITING: Final = "('queued', 'scheduled', 'retrying')"
_TERMINAL: Final = "('completed', 'failed', 'canceled')"


def _access() -> Iterator[Mutant]:
    """Who is let in."""
    yield from _statement(
        "a revoked key stays so",
        "revoke_key",
        _same(("revoked_at IS NULL AND ", "")),
        "tests/store/test_access.py::test_a_key_is_revoked_once_by_name_or_id[{pair}]",
    )
    keys = "jobserver/pipeline/keys.py"
    yield _guard(
        "keys: one that has ended lets nobody in",
        keys,
        ("found.expires_at_us <= self._clock.now_us()", "found.expires_at_us < 0"),
        f"{_ACCESS}test_a_key_ends_when_its_time_is_over[sqlite]",
    )
    yield _guard(
        "keys: of two none counts",
        "jobserver/pipeline/credentials.py",
        ("if len(given) != 1 or len(given[0])", "if len(given[0])"),
        f"{_ACCESS}test_of_two_keys_none_counts[sqlite]",
    )
    yield _guard(
        "keys: of two cookies none counts",
        keys,
        ("found[0] if len(found) == 1 and", "found[0] if found and"),
        f"{_SESSION}test_of_two_cookies_none_counts[sqlite]",
    )
    yield _guard(
        "keys: a cookie changes nothing by itself",
        keys,
        ("if changes and not given and not same_origin(headers):", "if False:"),
        f"{_SESSION}test_a_cookie_changes_something_for_pages_of_this_server_alone[sqlite]",
    )
    yield _guard(
        "sessions: after mistakes the right key waits too",
        "jobserver/pipeline/sessions.py",
        ("if not standing.allowed:", "if False:"),
        f"{_SESSION}test_too_many_wrong_keys_of_an_address_wait[sqlite]",
    )
    yield _guard(
        "keys: a server never opens again",
        keys,
        (
            "        if not self.ever:\n            return ANYBODY",
            "        if not self._live:\n            return ANYBODY",
        ),
        f"{_ACCESS}test_the_first_key_closes_the_server_and_the_last_one_does_not_open_it[sqlite]",
    )
    yield _guard(
        "keys: an old look confirms nothing",
        keys,
        ("self._fresh = loop.time() < began + FRESH_SECONDS", "self._fresh = True"),
        f"{_ACCESS}test_a_look_that_took_too_long_confirms_nothing[sqlite]",
    )
    yield _guard(
        "keys: the scope of a key is what it may do",
        keys,
        ("if caller.rank < RANKS[needed]:", "if False:"),
        f"{_ACCESS}test_each_route_lets_in_whom_it_should[sqlite]",
    )


def _claim() -> Iterator[Mutant]:
    refused = f"{_STORE}test_the_claim_says_why_it_refused[{{pair}}]"
    yield from _statement(
        "status",
        "claim",
        {
            "postgresql": (f"AND j.status || '' IN {_WAITING}", ""),
            "sqlite": (f"AND jobs.status IN {_WAITING}", ""),
        },
        *_permits("running", "completed"),
    )
    yield from _statement(
        "fence of the message",
        "claim",
        {"postgresql": ("AND j.fence = wanted.fence", ""), "sqlite": ("AND jobs.fence = w.fence", "")},
        f"{_STORE}test_a_message_of_another_fence_changes_nothing[{{pair}}]",
    )
    yield from _statement(
        "the fence moves on",
        "claim",
        {
            "postgresql": ("fence = j.fence + 1", "fence = j.fence"),
            "sqlite": ("fence = jobs.fence + 1", "fence = jobs.fence"),
        },
        f"{_STORE}test_a_claim_takes_the_job_under_a_new_fence[{{pair}}]",
    )
    yield from _statement(
        "due",
        "claim",
        {"postgresql": ("AND j.due_at <= clock.now", ""), "sqlite": ("AND jobs.due_at <= :now", "")},
        refused,
    )
    yield from _statement(
        "not expired",
        "claim",
        {
            "postgresql": ("AND (j.expires_at IS NULL OR j.expires_at > clock.now)", ""),
            "sqlite": ("AND (jobs.expires_at IS NULL OR jobs.expires_at > :now)", ""),
        },
        refused,
    )
    yield from _statement(
        "queue not paused",
        "claim",
        {
            "postgresql": ("AND NOT EXISTS (SELECT FROM queues q WHERE q.name = j.queue AND q.paused)", ""),
            "sqlite": ("AND NOT EXISTS (SELECT 1 FROM queues q WHERE q.name = jobs.queue AND q.paused)", ""),
        },
        refused,
    )
    yield from _statement(
        "token of a repeated claim",
        "why_refused",
        _same(("j.claim_token = :token", "(j.claim_token = :token OR true)")),
        f"{_STORE}test_a_claim_whose_commit_was_not_confirmed_is_recognised[{{pair}}]",
    )
    yield _guard(
        "claim: a repeated one knows what it won",
        "jobserver/store/jobs.py",
        ("if repeated:", "if False:"),
        f"{_STORE}test_a_claim_whose_commit_was_not_confirmed_is_recognised[sqlite]",
    )
    yield _guard(
        "claim: of two messages of a job one wins",
        "jobserver/store/jobs.py",
        ("claimed.pop(claim, None)", "claimed.get(claim)"),
        f"{_STORE}test_of_two_deliveries_one_is_claimed[sqlite-1]",
    )


def _end(guard: str, texts: dict[str, Texts], *tests: str) -> Iterator[Mutant]:
    """A guard of every end of an attempt but the plain ones: on PostgreSQL two statements share it."""
    yield from _statement(guard, "settle", texts, *tests, shared=True)


def _settle() -> Iterator[Mutant]:
    canceled = f"{_STORE}test_a_cancel_requested_in_between_wins_over_everything_but_completed[{{pair}}]"
    yield from _end(
        "status",
        {"postgresql": ("AND j.status || '' = 'running'", ""), "sqlite": ("AND jobs.status = 'running'", "")},
        *_permits("completed", "failed"),
    )
    yield from _end(
        "fence",
        {"postgresql": ("AND j.fence = i.fence", ""), "sqlite": ("AND jobs.fence = i.fence", "")},
        f"{_STORE}test_a_zombie_cannot_end_a_job_that_runs_again[{{pair}}-raised]",
    )
    yield from _end(
        "the fence moves on",
        {
            "postgresql": ("fence = j.fence + 1", "fence = j.fence"),
            "sqlite": ("fence = jobs.fence + 1", "fence = jobs.fence"),
        },
        *_permits("running"),
    )
    yield from _end(
        "the lease is over, for who does not hold it",
        {
            "postgresql": ("AND (NOT i.lease_over OR j.lease_expires_at < clock.now)", ""),
            "sqlite": ("AND (NOT i.lease_over OR jobs.lease_expires_at < :now)", ""),
        },
        f"{_STORE}test_a_valid_lease_cannot_be_reclaimed[{{pair}}]",
    )
    yield from _end(
        "a cancel request wins",
        {
            "postgresql": (
                "CASE WHEN j.cancel_requested AND i.status <> 'completed' THEN 'canceled' ELSE i.status END",
                "i.status",
            ),
            "sqlite": (
                "CASE WHEN jobs.cancel_requested AND i.status <> 'completed' THEN 'canceled' ELSE i.status END",
                "i.status",
            ),
        },
        canceled,
    )
    yield from _end("returned wins over it", _same((" AND i.status <> 'completed'", "")), canceled)
    yield from _end(
        "crashes are counted",
        {"postgresql": (" + i.crash_delta", ""), "sqlite": (" + i.crash_delta", "")},
        f"{_RECLAIM}test_a_job_whose_lease_is_over_is_taken_back[{{pair}}]",
    )
    history = f"{_STORE}test_every_attempt_leaves_one_history_row[{{pair}}]"
    yield from _statement(
        "history row",
        "settle",
        {"postgresql": ("ended, error, worker_id FROM settled", "ended, error, worker_id FROM settled WHERE false")},
        history,
    )
    yield _guard(
        "settle: history row (SQLite)",
        "jobserver/store/jobs.py",
        ('await session.fetch("record_attempts", self._history(rows, unique, moved))', "pass"),
        history.replace("{pair}", "sqlite"),
    )
    yield _guard(
        "settle: a repeated one knows its history row",
        "jobserver/store/jobs.py",
        ("if repeated and len(moved) < len(ordered):", "if False:"),
        _NOT_CONFIRMED,
    )
    yield _guard(
        "settle: the history row of a reclaim is not ours",
        "jobserver/store/jobs.py",
        ("ours = ended == expected[key] or ended is Ended.CANCELED", "ours = True"),
        _NOT_CONFIRMED,
    )
    yield _guard(
        "settle: what came after our end is not ours",
        "jobserver/store/jobs.py",
        (' and row["fence_now"] == row["fence"] + 1', ""),
        f"{_STORE}test_an_end_that_is_confirmed_late_says_nothing_of_what_came_after[sqlite]",
    )
    yield _guard(
        "settle: of two ends of a claim one wins",
        "jobserver/store/jobs.py",
        ("moved.pop(claim, None)", "moved.get(claim)"),
        f"{_STORE}test_an_end_that_is_named_twice_is_won_once[sqlite]",
    )


def _fingerprints() -> Iterator[Mutant]:
    actions = "tests/pipeline/test_actions.py::"
    fingerprints = "tests/store/test_fingerprints.py::"
    yield from _end(
        "what was canceled has no fingerprint",
        {
            "postgresql": ("CASE WHEN NOT j.cancel_requested THEN i.fingerprint END", "i.fingerprint"),
            "sqlite": ("CASE WHEN NOT jobs.cancel_requested THEN i.fingerprint END", "i.fingerprint"),
        },
        f"{fingerprints}test_only_what_failed_for_good_has_a_fingerprint[{{pair}}]",
    )
    yield from _statement(
        "a replay clears the fingerprint",
        "replay",
        _same(("fingerprint = NULL, ", "")),
        f"{fingerprints}test_only_what_failed_for_good_has_a_fingerprint[{{pair}}]",
    )
    late = f"{fingerprints}test_a_fingerprint_that_comes_late_is_for_the_failure_that_it_was_made_of[{{pair}}]"
    for guard, texts in (
        (
            "status",
            {"postgresql": ("AND j.status || '' = 'failed' ", ""), "sqlite": ("AND jobs.status = 'failed' ", "")},
        ),
        ("fence", {"postgresql": ("AND j.fence = i.fence ", ""), "sqlite": ("AND jobs.fence = i.fence ", "")}),
        (
            "it has none",
            {"postgresql": (" AND j.fingerprint IS NULL", ""), "sqlite": (" AND jobs.fingerprint IS NULL", "")},
        ),
    ):
        yield from _statement(guard, "save_fingerprints", texts, late)
    left = f"{fingerprints}test_a_fingerprint_that_an_older_release_left_on_a_job_says_nothing[{{pair}}]"
    yield from _statement("a fingerprint is of what failed", "among", _same(("j.status = 'failed' AND ", "")), left)
    yield _guard(
        "search: a fingerprint is of what failed",
        "jobserver/store/search.py",
        ("        conditions.append(_as_written(\"jobs.status = 'failed'\"))\n", ""),
        left.replace("{pair}", "sqlite"),
    )
    meant = {
        "cancel": f"{actions}test_what_changed_since_it_was_chosen_is_left_alone[{{pair}}-cancel]",
        "replay": f"{_COMMANDS}test_a_replay_queues_what_failed_or_was_canceled[{{pair}}-canceled-True-False]",
        "delete_jobs": f"{_COMMANDS}test_only_failed_jobs_are_deleted[{{pair}}]",
    }
    for statement, test in meant.items():
        table = "jobs" if statement == "replay" else "j"
        status = "j.status" if statement == "cancel" else "j.status || ''"
        yield from _statement(
            "a status that is meant",
            statement,
            {
                "postgresql": (f"AND {status} = ANY(:statuses)", f"AND (true OR {status} = ANY(:statuses))"),
                "sqlite": (f"\n    AND {table}.status IN (SELECT value FROM json_each(:statuses))", ""),
            },
            test,
        )
    again = f"{actions}test_what_failed_again_since_it_was_chosen_is_left_alone[{{pair}}-{{verb}}-filter]"
    on_postgresql = (" AND j.fence = coalesce(i.fence, j.fence)", "")
    yield from _statement(
        "the fence that is meant",
        "replay",
        {"postgresql": on_postgresql, "sqlite": (" AND jobs.fence = coalesce(i.fence, jobs.fence)", "")},
        again.replace("{verb}", "retry"),
    )
    yield from _statement(
        "the fence that is meant",
        "delete_jobs",
        {
            "postgresql": on_postgresql,
            "sqlite": ("    WHERE jobs.fence = coalesce(i.value ->> 'fence', jobs.fence)\n", ""),
        },
        again.replace("{verb}", "delete"),
        f"{actions}test_what_ended_again_since_it_was_chosen_is_left_alone[{{pair}}]",
    )


def _complete() -> Iterator[Mutant]:
    """PostgreSQL ends by it what returned; SQLite by settle."""
    together = f"{_STORE}test_attempts_that_end_together_are_won_or_refused_together[{{pair}}]"
    yield from _statement(
        "status", "complete", {"postgresql": ("AND j.status || '' = 'running'", "")}, *_permits("completed", "failed")
    )
    yield from _statement(
        "fence",
        "complete",
        {"postgresql": ("AND j.fence = i.fence", "")},
        f"{_STORE}test_a_zombie_cannot_end_a_job_that_runs_again[{{pair}}-returned]",
    )
    yield from _statement(
        "the fence moves on", "complete", {"postgresql": ("fence = j.fence + 1", "fence = j.fence")}, together
    )
    yield from _statement(
        "history row",
        "complete",
        {
            "postgresql": (
                "'completed', NULL, worker_id FROM settled",
                "'completed', NULL, worker_id FROM settled WHERE false",
            )
        },
        together,
    )


def _while_it_runs() -> Iterator[Mutant]:
    idle = f"{_STORE}test_what_does_not_run_has_no_lease_and_no_progress[{{pair}}-retrying]"
    yield from _statement(
        "status",
        "extend_leases",
        {"postgresql": ("AND j.status || '' = 'running'", ""), "sqlite": ("AND jobs.status = 'running'", "")},
        idle,
    )
    yield from _statement(
        "fence",
        "extend_leases",
        {"postgresql": ("AND j.fence = i.fence", ""), "sqlite": ("AND jobs.fence = i.fence", "")},
        f"{_STORE}test_a_lease_is_extended_for_the_holder_only[{{pair}}]",
    )
    yield from _statement(
        "the fence of who is told that it is his",
        "extend_leases",
        {"postgresql": (" AND i.fence = j.fence", "")},
        f"{_STORE}test_a_lease_is_extended_for_the_holder_only[{{pair}}]",
    )
    yield from _statement(
        "status of what is told to be his",
        "extend_leases",
        {"postgresql": ("WHERE j.status || '' = 'running' AND i.fence = j.fence", "WHERE i.fence = j.fence")},
        idle,
    )
    yield from _statement(
        "status",
        "save_progress",
        {"postgresql": ("AND j.status || '' = 'running'", ""), "sqlite": ("AND jobs.status = 'running'", "")},
        idle,
    )
    yield from _statement(
        "fence",
        "save_progress",
        {"postgresql": ("AND j.fence = i.fence", ""), "sqlite": ("AND jobs.fence = i.fence", "")},
        f"{_STORE}test_progress_is_stored_for_the_holder_only[{{pair}}]",
    )


def _commands() -> Iterator[Mutant]:
    yield from _statement(
        "status",
        "cancel",
        _same((" AND j.status IN ('queued', 'scheduled', 'retrying', 'running')", "")),
        *_permits("completed"),
    )
    yield from _statement(
        "a running job is only asked",
        "cancel",
        _same(("CASE WHEN j.status = 'running' THEN j.status ELSE 'canceled' END", "'canceled'")),
        *_permits("running"),
    )
    yield from _statement(
        "the fence moves on", "cancel", _same(("ELSE j.fence + 1 END", "ELSE j.fence END")), *_permits("queued")
    )
    yield from _statement(
        "status",
        "replay",
        {
            "postgresql": ("    AND j.status || '' IN ('failed', 'canceled')\n", ""),
            "sqlite": ("AND jobs.status IN ('failed', 'canceled')\n    AND jobs.status", "AND jobs.status"),
        },
        *_permits("completed"),
    )
    yield from _statement(
        "the fence moves on",
        "replay",
        {
            "postgresql": ("fence = j.fence + 1", "fence = j.fence"),
            "sqlite": ("fence = jobs.fence + 1", "fence = jobs.fence"),
        },
        *_permits("failed"),
    )
    yield from _statement(
        "status",
        "expire",
        _same(((f"status IN {_WAITING} AND expires_at", "expires_at"), (f"    AND j.status IN {_WAITING}\n", ""))),
        "tests/upkeep/test_expire.py::test_a_running_job_does_not_expire[{pair}]",
    )
    yield from _statement(
        "its time is over",
        "expire",
        {
            "postgresql": (" AND expires_at <= (SELECT clock_timestamp())", ""),
            "sqlite": (" AND expires_at <= :now", ""),
        },
        f"{_STORE}test_expiry_fails_waiting_jobs[{{pair}}]",
    )
    yield from _statement(
        "the fence moves on",
        "expire",
        _same(("fence = j.fence + 1", "fence = j.fence")),
        f"{_STORE}test_expiry_fails_waiting_jobs[{{pair}}]",
    )
    yield from _statement(
        "status",
        "delete_jobs",
        {
            "postgresql": (f"    AND j.status || '' IN {_TERMINAL}\n", ""),
            "sqlite": (f" AND j.status IN {_TERMINAL}\n", "\n"),
        },
        f"{_STORE}test_only_terminal_jobs_are_deleted_whatever_is_meant[{{pair}}-queued]",
    )
    pruned = f"{_STORE}test_what_is_pruned_is_judged_once_more_as_it_is_deleted[{{pair}}]"
    yield from _statement(
        "status",
        "prune_jobs",
        {
            "postgresql": (f" AND o.status || '' = :status AND o.status || '' IN {_TERMINAL}", " AND :status <> ''"),
            "sqlite": (f"AND j.status = :status AND j.status IN {_TERMINAL}", "AND :status <> ''"),
        },
        pruned,
    )
    yield from _statement(
        "retention",
        "prune_jobs",
        {
            "postgresql": ("secs => :older_than_seconds", "secs => -abs(:older_than_seconds)"),
            "sqlite": (":now - CAST(:older_than_seconds", ":now + CAST(:older_than_seconds"),
        },
        pruned,
    )
    yield from _statement(
        "a key is known for its time",
        "prune_jobs",
        {
            "postgresql": ("AND k.expires_at > clock_timestamp()", "AND false"),
            "sqlite": ("AND k.expires_at > :now", "AND false"),
        },
        f"{_STORE}test_a_job_stays_as_long_as_its_key_is_known[{{pair}}]",
    )


def _submit() -> Iterator[Mutant]:
    yield from _statement(
        "a repeat stores nothing twice",
        "insert_jobs",
        _same(("ON CONFLICT (id) DO NOTHING", "")),
        f"{_STORE}test_a_repeated_insert_stores_nothing_twice[{{pair}}]",
        shared=True,
    )
    yield from _statement(
        "a key is known for its time",
        "take_keys",
        {
            "postgresql": ("WHERE k.expires_at > clock_timestamp()\n            OR EXISTS", "WHERE EXISTS"),
            "sqlite": ("WHERE k.expires_at > :now\n            OR EXISTS", "WHERE EXISTS"),
        },
        f"{_STORE}test_a_key_is_known_for_its_time_however_its_job_ended[{{pair}}]",
    )
    yield from _statement(
        "a key is known while its job is not terminal",
        "take_keys",
        {
            "postgresql": (
                f"OR EXISTS (SELECT FROM jobs j WHERE j.id = k.job_id AND j.status NOT IN {_TERMINAL})",
                "",
            ),
            "sqlite": (
                f"OR EXISTS (SELECT 1 FROM jobs j WHERE j.id = k.job_id AND j.status NOT IN {_TERMINAL})",
                "",
            ),
        },
        f"{_STORE}test_a_key_is_free_again_when_its_time_is_over_and_its_job_terminal[{{pair}}]",
    )
    yield from _statement(
        "a key stays while its job is not terminal",
        "prune_keys",
        _same((f"j.status NOT IN {_TERMINAL}", "false")),
        "tests/upkeep/test_prune.py::test_old_keys_go_when_their_job_is_terminal[{pair}]",
    )
    yield _guard(
        "submit: a known key with another body is refused",
        "jobserver/store/jobs.py",
        ("if owners[key][1] != group[place].fingerprint.hex()", "if False"),
        f"{_STORE}test_a_key_with_another_body_is_refused[sqlite]",
    )


def _locks() -> Iterator[Mutant]:
    first = f"{_LOCKS}test_a_batch_waits_for_its_first_row_and_holds_no_other"
    in_order = (" ORDER BY id)", ")")
    for statement in ("claim", "complete", "save_progress"):
        yield from _statement("locks in the order of ids", statement, {"postgresql": in_order}, f"{first}[{statement}]")
    part = f"{_SQL}/postgresql/settle.part"
    both = (f"{first}[{statement}]" for statement in ("settle", "settle_calling"))
    yield _guard("settle: locks in the order of ids (PostgreSQL)", part, (") ORDER BY id\n", ")\n"), *both)
    yield _guard(
        "a transaction that hangs is ended",
        "jobserver/store/engine.py",
        ('                "idle_in_transaction_session_timeout": f"{idle_seconds * 1000:.0f}",\n', ""),
        f"{_LOCKS}test_a_process_that_hangs_in_a_transaction_loses_it_and_holds_up_nobody",
    )
    yield from _statement(
        "waits for nobody",
        "find_lost",
        {"postgresql": (" FOR UPDATE SKIP LOCKED", "")},
        f"{_LOCKS}test_a_lost_job_that_somebody_holds_is_passed_over",
    )
    yield from _statement(
        "waits for nobody",
        "extend_leases",
        {"postgresql": (" SKIP LOCKED", "")},
        f"{_LOCKS}test_an_extension_waits_for_nobody_and_takes_nobody_for_lost",
    )
    yield from _statement(
        "locks in the order of keys",
        "take_keys",
        {"postgresql": ("ORDER BY i.scope, i.key", "")},
        f"{_LOCKS}test_keys_are_taken_in_their_order",
    )
    yield _guard(
        "commands: the victim of a deadlock is repeated",
        "jobserver/store/jobs.py",
        ("if not isinstance(error.__cause__, asyncpg.DeadlockDetectedError):", "if True:"),
        f"{_LOCKS}test_a_command_that_is_the_victim_of_a_deadlock_is_repeated",
    )
    yield from _statement(
        "what another has found is passed over",
        "bump_overtaken",
        {"postgresql": ("        FOR UPDATE SKIP LOCKED\n", "")},
        f"{_LOCKS}test_two_who_look_for_lost_messages_do_not_find_the_same",
    )


def _reconcile() -> Iterator[Mutant]:
    file = "jobserver/upkeep/reconcile.py"
    wiped = f"{_RECONCILE}test_a_wipe_publishes_everything_once_and_without_grace[sqlite]"
    yield from _statement(
        "status",
        "bump_overtaken",
        {
            "postgresql": (
                (f"WHERE j.status IN {_WAITING} AND j.queue", "WHERE j.queue"),
                (f" AND j.status IN {_WAITING}\nRETURNING", "\nRETURNING"),
            ),
            "sqlite": (
                (f"ON j.status IN {_WAITING} AND j.queue", "ON j.queue"),
                (f" AND jobs.status IN {_WAITING}\nRETURNING", "\nRETURNING"),
            ),
        },
        f"{_STORE}test_only_waiting_jobs_are_overtaken[{{pair}}]",
    )
    yield from _statement(
        "before the watermark",
        "bump_overtaken",
        {
            "postgresql": ("            AND j.available_at < s.before\n", ""),
            "sqlite": (" AND j.available_at < s.before", ""),
        },
        f"{_STORE}test_overtaken_jobs_are_found_once_and_in_order[{{pair}}]",
    )
    yield _guard(
        "reconcile: publishes what it found",
        file,
        ("        self._deliveries.publish(message_of(each) for each in found)\n", ""),
        wiped,
    )
    yield _guard(
        "reconcile: looks for overtaken jobs",
        file,
        ("found = await self.overtaken(timedelta(0) if resumed else GRACE)", "found = 0"),
        f"{_RECONCILE}test_a_resume_publishes_what_was_refused_meanwhile_at_once[sqlite]",
    )
    yield _guard(
        "reconcile: grace",
        file,
        ("if us is not None else now) - grace", "if us is not None else now)"),
        f"{_RECONCILE}test_a_fresh_job_is_left_alone_within_the_grace[sqlite]",
    )
    yield _guard(
        "reconcile: watermark of the stream",
        file,
        ("min(now, from_us(us) if us is not None else now)", "now"),
        f"{_RECONCILE}test_a_backlog_triggers_nothing[sqlite]",
    )
    yield _guard(
        "reconcile: its time is asked before the streams",
        file,
        (
            ("        now = until or self._store.database.clock.now()\n", ""),
            (
                "        oldest = await self._stream.watermarks(streams)\n",
                "        oldest = await self._stream.watermarks(streams)\n"
                "        now = until or self._store.database.clock.now()\n",
            ),
        ),
        f"{_RECONCILE}test_what_is_submitted_while_the_streams_are_asked_is_not_judged[sqlite]",
    )
    yield _guard(
        "reconcile: incarnation",
        file,
        ("if value == self._incarnation:", "if value:"),
        wiped,
    )
    yield _guard(
        "reconcile: an incarnation that is there is kept",
        f"{_LUA}/incarnation.lua",
        ("if value then return {value, 0} end", ""),
        f"{_STREAM}test_an_incarnation_is_set_once_and_is_another_after_a_wipe[valkey]",
    )
    yield _guard(
        "reconcile: a wipe fills the delayed sets again",
        "jobserver/server.py",
        ("            on_wiped=self.promote.refill_all,\n", ""),
        "tests/upkeep/test_promote.py::test_a_wiped_redis_is_filled_again[sqlite]",
    )
    yield _guard(
        "reconcile: a paused queue is left alone",
        file,
        (" if not self._queues.paused.get(stream[0], False)]", "]"),
        f"{_RECONCILE}test_a_paused_queue_is_left_alone_until_it_is_resumed[sqlite]",
    )
    yield _guard(
        "reconcile: a dead letter is fed once",
        file,
        (" if (each[0], each[1]) not in fed]", "]"),
        f"{_RECONCILE}test_the_feed_of_dead_letters_is_topped_up[sqlite]",
    )
    yield _guard(
        "watermark: of what was not delivered",
        f"{_LUA}/watermark.lua",
        ("from = '(' .. fields['last-delivered-id']", "from = '-'"),
        f"{_STREAM}test_the_watermark_is_the_oldest_message_that_was_not_delivered[valkey]",
    )


def _reclaim() -> Iterator[Mutant]:
    file = "jobserver/upkeep/reclaim.py"
    steady = f"{_RECLAIM}test_leases_are_judged_only_after_own_steady_beats[sqlite]"
    yield _guard(
        "reclaim: own heartbeats, before it asks",
        file,
        ("        if not self._may_reclaim():\n            return None\n        found", "        found"),
        steady,
    )
    yield _guard(
        "reclaim: own heartbeats, after the answer",
        file,
        (
            "        if not self._may_reclaim():\n            # The answer",
            "        if False:\n            # The answer",
        ),
        steady,
    )
    yield _guard(
        "reclaim: not by a clock that jumped",
        file,
        ("if found and await self._clock_jumped():", "if False:"),
        f"{_RECLAIM}test_a_clock_that_jumped_says_nothing_of_leases[postgresql]",
    )
    yield _guard(
        "reclaim: asks the own pulse",
        "jobserver/server.py",
        ("may_reclaim=self.heartbeat.pulse.may_reclaim", "may_reclaim=lambda: True"),
        f"{_PULSE}test_reclaim_asks_the_pulse_of_its_own_process[sqlite]",
    )
    yield _guard(
        "reclaim: own jobs are not lost",
        file,
        (" if (each.job.id, each.job.fence) not in held]", "]"),
        f"{_RECLAIM}test_what_this_process_runs_is_never_lost_to_it[sqlite]",
    )
    yield _guard(
        "recover: jobs of the living are not lost",
        file,
        (" if each.worker_id not in living]", "]"),
        f"{_RECLAIM}test_recovery_beside_living_servers_takes_nothing_from_them[postgresql]",
    )
    yield _guard(
        "reclaim: orphans are of others",
        f"{_SQL}/find_orphans.sql",
        ("j.worker_id <> :worker_id", ":worker_id <> ''"),
        f"{_RECLAIM}test_the_orphans_of_a_dead_predecessor_need_not_wait[sqlite]",
    )
    yield _guard(
        "reclaim: orphans only when alone",
        "jobserver/server.py",
        ("        if engines.alone:\n", "        if True:\n"),
        f"{_SERVER}test_beside_others_a_server_waits_for_the_lease",
    )
    yield _guard(
        "serve: one process on a SQLite file",
        "jobserver/server.py",
        ('stack.callback(lock_database(url.database or "").close)', "pass"),
        f"{_SERVER}test_a_second_server_on_one_sqlite_file_is_refused",
    )
    yield _guard(
        "reclaim: cursor of XAUTOCLAIM",
        file,
        ("        self._cursors[stream] = cursor\n", ""),
        f"{_RECLAIM}test_an_old_message_behind_many_fresh_ones_is_found_by_the_next_looks[sqlite]",
    )
    yield _guard(
        "reclaim: idle time of XAUTOCLAIM",
        file,
        ("min_idle_ms=int(self._lease_seconds * 1000)", "min_idle_ms=0"),
        f"{_RECLAIM}test_a_message_that_was_read_a_moment_ago_is_left_to_its_reader[sqlite]",
    )


def _death() -> Iterator[Mutant]:
    file = "jobserver/upkeep/reclaim.py"
    yield _guard(
        "death: own heartbeats",
        file,
        ("if self._may_judge():", "if True:"),
        f"{_HEART}test_the_dead_are_judged_only_after_own_steady_beats",
    )
    yield _guard(
        "death: asks the own pulse",
        "jobserver/server.py",
        ("may_judge=self.heartbeat.pulse.may_judge", "may_judge=lambda: True"),
        f"{_HEART}test_the_dead_are_judged_only_after_own_steady_beats",
    )
    yield _guard(
        "death: nobody judges himself",
        file,
        ("if worker_id != self._worker_id:", "if True:"),
        f"{_HEART}test_a_process_does_not_judge_itself",
    )
    yield _guard(
        "death: its lock is free",
        "jobserver/store/jobs.py",
        ('if not lock["taken"]:', "if False:"),
        f"{_HEART}test_a_dead_process_loses_its_jobs_long_before_their_leases_end",
    )
    yield from _statement(
        "it is silent still",
        "still_silent",
        {
            "postgresql": (
                "w.heartbeat_at < clock_timestamp() - make_interval(secs => :silent_seconds)",
                "(true OR :silent_seconds > 0)",
            )
        },
        f"{_HEART}test_a_process_that_has_just_come_back_is_not_dead",
    )
    yield from _statement(
        "its row is held",
        "still_silent",
        {"postgresql": ("\nFOR UPDATE", "")},
        f"{_HEART}test_a_process_cannot_come_back_while_it_is_judged",
    )
    yield from _statement(
        "it had its lock",
        "silent_workers",
        {"postgresql": ("w.locked AND ", "")},
        f"{_HEART}test_a_process_that_never_had_its_lock_is_judged_by_its_leases_alone",
    )
    yield from _statement(
        "takes the lock",
        "beat",
        {
            "postgresql": (
                "ELSE pg_try_advisory_lock(hashtext('workers'::regclass::oid::text), hashtext(:id))",
                "ELSE true",
            )
        },
        f"{_HEART}test_the_lock_lasts_as_long_as_the_connection",
    )


def _pulse() -> Iterator[Mutant]:
    file = "jobserver/upkeep/pulse.py"
    yield _guard(
        "pulse: a full lease of own beats",
        file,
        ("self._steady_for(self._lease_seconds)", "self._steady_for(0)"),
        _BEATS,
    )
    yield _guard(
        "pulse: five seconds of own beats", file, ("self._steady_for(JUDGE_SECONDS)", "self._steady_for(0)"), _BEATS
    )
    yield _guard(
        "pulse: a beat that fails breaks them",
        file,
        ("            self._steady_since = None\n            raise", "            raise"),
        _BEATS,
    )
    yield _guard("pulse: the last beat is recent", file, (" and not self._broken()", ""), _BEATS)
    yield _guard("pulse: a gap breaks them", file, (" or self._broken():", ":"), _BEATS)
    yield _guard(
        "pulse: a jump of the database's clock breaks them",
        file,
        (
            "leases look over, and are not.\n            self._steady_since = None",
            "leases look over, and are not.\n            pass",
        ),
        _BEATS,
    )
    yield _guard(
        "pulse: claims only while others know that it lives",
        file,
        ("self._last_beat is not None and time.monotonic() - self._last_beat < SILENT_SECONDS", "True"),
        _BEATS,
    )
    yield _guard(
        "pulse: a refused lease ends the handler",
        file,
        ("self._refuse(job_id, fence)", "pass"),
        f"{_PULSE}test_a_refused_lease_cancels_the_handler_and_discards_its_result[sqlite]",
    )
    hung = f"{_HEART}test_while_the_heart_stands_still_nothing_is_sent[sqlite]"
    yield _guard(
        "heartbeat: a hung loop stops the beats", "jobserver/upkeep/heartbeat.py", ("if self._hung:", "if False:"), hung
    )
    yield _guard(
        "heartbeat: a hung loop stops the leases",
        "jobserver/upkeep/heartbeat.py",
        ("return None if self._hung else await", "return await"),
        f"{_HEART}test_while_the_heart_stands_still_no_lease_is_extended[sqlite]",
    )
    yield _guard(
        "heartbeat: a loop that is blocked for too long is hung",
        "jobserver/upkeep/heartbeat.py",
        ("elif lag > self._max_block_seconds and not self._hung:", "elif False:"),
        hung,
    )
    yield _guard(
        "pulse: the lease of a claim under way is extended",
        file,
        ("leases = list({*held, *self._holdings.claims()})", "leases = list(held)"),
        "tests/upkeep/test_claims_under_way.py::"
        "test_a_beat_during_a_claim_keeps_what_it_wins_and_refuses_nothing[sqlite-True]",
    )
    yield _guard(
        "hear: a cancel asked elsewhere reaches the handler",
        "jobserver/upkeep/hear.py",
        ("self._holdings.cancel(job_id, fence)", "pass"),
        "tests/upkeep/test_hear.py::test_a_turn_brings_cancel_requests_and_stores_progress[sqlite]",
    )


def _pipeline() -> Iterator[Mutant]:
    consume = "jobserver/pipeline/consume.py"
    held = "jobserver/pipeline/held.py"
    yield _guard(
        "consume: reads only while others know that it lives",
        consume,
        ("if not self.may_claim():", "if False:"),
        f"{_CONSUME}test_nothing_is_read_while_others_take_this_process_for_dead[sqlite]",
    )
    yield _guard(
        "consume: asks the own pulse",
        "jobserver/server.py",
        ("        self.consumers.may_claim = self.heartbeat.pulse.may_claim\n", ""),
        f"{_PULSE}test_a_process_that_others_take_for_dead_claims_nothing",
    )
    yield _guard(
        "consume: the own message of a job that runs is not acknowledged",
        consume,
        (" and held.delivery.entry_id != delivery.entry_id", ""),
        f"{_CONSUME}test_the_own_message_of_a_job_that_runs_here_stays_pending[sqlite]",
    )
    yield _guard(
        "consume: the message of a job that runs elsewhere is not acknowledged",
        consume,
        ("if held is not None and held.delivery.entry_id", "if held is None or held.delivery.entry_id"),
        f"{_CONSUME}test_a_message_of_a_job_that_another_process_runs_stays_pending[sqlite-60.0]",
    )
    yield _guard(
        "consume: the message of a lost job is not acknowledged",
        consume,
        ('{"gone", "stale", "expired", "paused"}', '{"gone", "stale", "expired", "paused", "over"}'),
        f"{_CONSUME}test_a_message_of_a_job_that_another_process_runs_stays_pending[sqlite--1.0]",
    )
    yield _guard(
        "consume: what comes out of a refused lease is discarded",
        consume,
        ("if held.refused:", "if False:"),
        f"{_PULSE}test_a_refused_lease_cancels_the_handler_and_discards_its_result[sqlite]",
    )
    yield _guard(
        "consume: a drain starts nothing more",
        consume,
        (
            "if self._draining.is_set():\n            self._not_begun(held)",
            "if False:\n            self._not_begun(held)",
        ),
        f"{_CONSUME}test_what_is_claimed_while_a_drain_begins_is_handed_back[sqlite]",
    )
    newer = f"{_HELD}test_a_newer_claim_of_a_job_ends_the_older_one"
    yield _guard(
        "held: a newer claim ends the older", held, ("older.running.cancel(CancelReason.LEASE_REFUSED)", "pass"), newer
    )
    yield _guard(
        "held: an end leaves the newer claim", held, ("if self._held.get(held.job.id) is held:", "if True:"), newer
    )
    yield _guard(
        "held: fence of a refusal",
        held,
        (" and held.job.fence == fence", ""),
        f"{_HELD}test_a_refusal_is_for_the_fence_that_it_names",
    )
    yield _guard(
        "held: fence of a cancel request",
        held,
        (" or (fence is not None and held.job.fence != fence)", ""),
        f"{_HELD}test_a_cancel_is_for_the_fence_that_it_names",
    )
    yield _guard(
        "held: fence of progress",
        held,
        (" and held.job.fence == job.fence", ""),
        f"{_HELD}test_progress_of_an_earlier_attempt_is_not_that_of_this_one",
    )
    yield _guard(
        "consume: no more run than there are consumers",
        "jobserver/pipeline/consume.py",
        ("if self._running < self._options.workers or self._draining.is_set():", "if True:"),
        "tests/pipeline/test_consume.py::"
        "test_three_times_as_many_are_claimed_ahead_and_no_more_run_than_there_are_consumers[sqlite]",
    )
    yield _guard(
        "consume: what waits too long for its turn is handed back",
        "jobserver/pipeline/consume.py",
        ("            self._hand_back(over)\n", ""),
        "tests/pipeline/test_consume.py::test_what_waits_too_long_for_its_turn_is_handed_back[sqlite]",
    )
    yield _guard(
        "execute: suspects run in a child",
        "jobserver/pipeline/execute.py",
        ("if running.job.crashes > 0:", "if False:"),
        "tests/pipeline/test_processes.py::test_a_suspect_runs_in_a_child_whatever_its_handler_is",
    )
    yield _guard(
        "deliver: what is to be told has a bound",
        "jobserver/pipeline/deliver.py",
        ("room = max(0, MAX_WAITING - len(self._waiting))", "room = 1_000_000"),
        "tests/pipeline/test_deliver.py::test_what_finds_no_place_is_dropped_and_counted",
    )


def _policy() -> Iterator[Mutant]:
    file = "jobserver/job/lifecycle.py"
    leads = f"{_POLICY}test_each_outcome_leads_where_the_table_says"
    yield _guard(
        "policy: crash cap",
        file,
        ("if crashes >= policy.max_crashes:", "if False:"),
        f"{_POLICY}test_crashes_have_a_cap_of_their_own",
    )
    yield _guard(
        "policy: returned wins over a cancel request",
        file,
        ("if isinstance(outcome, Returned):", "if isinstance(outcome, Returned) and not job.cancel_requested:"),
        f"{leads}[returned-True-True]",
    )
    yield _guard(
        "policy: a cancel request outlives a crash",
        file,
        ("if job.cancel_requested:", "if job.cancel_requested and not isinstance(outcome, LeaseLost):"),
        f"{leads}[lease lost-True-True]",
    )
    yield _guard(
        "policy: a cancel request wins over every other end",
        file,
        ("if job.cancel_requested:", "if False:"),
        f"{leads}[raised-True-True]",
    )


def _stream() -> Iterator[Mutant]:
    full = f"{_FULL}test_under_a_full_memory_what_frees_may_add[valkey]"
    yield _guard(
        "apply: frees before it adds",
        "jobserver/stream/jobs.py",
        (
            (
                "        args: list[Any] = [GROUP]\n",
                "        args: list[Any] = [GROUP]\n        last: list[Any] = []\n",
            ),
            ('args += ("ack", number(', 'last += ("ack", number('),
            ("        if len(args) == 1:\n", "        args += last\n        if len(args) == 1:\n"),
        ),
        full,
    )
    yield _guard(
        "apply: an addition that fails undoes nothing",
        f"{_LUA}/apply.lua",
        ("local reply = redis.pcall(...)", "local reply = redis.call(...)"),
        f"{_FULL}test_under_a_full_memory_additions_are_refused_and_reported[valkey]",
    )
    yield _guard(
        "submit: room is for those of a turn together",
        "jobserver/pipeline/submit.py",
        ("        self._arriving += 1\n", ""),
        "tests/http/test_limits.py::test_room_is_for_those_of_a_turn_and_less_where_they_wait_long",
    )
    yield _guard(
        "deliver: messages that are refused are no loss of events",
        "jobserver/pipeline/deliver.py",
        ("            if refused.untold:\n", "            if True:\n"),
        "tests/http/test_live.py::test_messages_that_redis_refuses_are_no_loss_of_events[sqlite]",
    )
    yield _guard(
        "apply: events that were refused are told",
        f"{_LUA}/apply.lua",
        ("        untold = 1\n        return refuse(id)", "        return refuse(id)"),
        f"{_FULL}test_events_that_were_refused_are_told_from_messages_that_were[valkey]",
    )
    yield _guard(
        "apply: a call that is repeated adds its events once",
        f"{_LUA}/apply.lua",
        ("    if redis.call('GET', sent) == number then return end\n", ""),
        f"{_EVENTS}test_a_call_that_is_repeated_adds_its_events_once[valkey]",
    )
    yield _guard(
        "apply: events are trimmed",
        f"{_LUA}/apply.lua",
        ("    if oldest then redis.call('XTRIM', events, 'MINID', oldest) end\n", ""),
        f"{_EVENTS}test_the_feed_keeps_so_many_events_and_about_a_tenth_more[valkey]",
    )
    yield _guard(
        "events: the name of a feed is kept",
        f"{_LUA}/feed.lua",
        ("redis.call('HSETNX', KEYS[1], 'feed', ARGV[1])", "redis.call('HSET', KEYS[1], 'feed', ARGV[1])"),
        f"{_EVENTS}test_a_feed_is_named_once_and_anew_after_a_wipe[valkey]",
    )
    yield _guard(
        "events: one that was overtaken is left out",
        "jobserver/pipeline/feed.py",
        ("        if fence <= known:\n            return False\n", ""),
        f"{_LIVE}test_an_event_that_was_overtaken_or_repeated_is_left_out[sqlite]",
    )
    yield _guard(
        "events: what is missing between two entries is noticed",
        "jobserver/pipeline/feed.py",
        ("if entry.start != self._count or entry.gap:", "if entry.gap:"),
        f"{_LIVE}test_an_entry_that_is_missing_is_told_by_a_reset[sqlite]",
    )
    yield _guard(
        "events: a job's stream repeats nothing",
        "jobserver/pipeline/feed.py",
        ("        if change.fence <= self.fence or self.ended:", "        if self.ended:"),
        f"{_LIVE}test_a_stream_of_one_job_begins_with_its_state_and_ends_with_it[sqlite]",
        f"{_LIVE}test_a_look_and_its_event_are_told_once_whichever_comes_first",
    )
    removal = (
        "        for from = 1, #members, 1000 do\n"
        "            redis.call('ZREM', KEYS[pair], unpack(members, from, math.min(from + 999, #members)))\n"
        "        end\n"
    )
    yield _guard(
        "promote: frees before it adds",
        f"{_LUA}/promote.lua",
        ((removal, ""), ("        left = left - #members\n", f"{removal}        left = left - #members\n")),
        full,
    )
    yield _guard(
        "promote: only what is due",
        f"{_LUA}/promote.lua",
        ("'-inf', now,", "'-inf', '+inf',"),
        f"{_STREAM}test_promote_moves_what_is_due_and_says_when_the_next_is[valkey]",
    )
    yield _guard(
        "fetch: a group starts at the first message",
        f"{_LUA}/fetch.lua",
        ("group, '0', 'MKSTREAM'", "group, '$', 'MKSTREAM'"),
        f"{_STREAM}test_a_group_starts_at_the_first_message[valkey]",
    )
    yield _guard(
        "fetch: no more than consumers are free",
        f"{_LUA}/fetch.lua",
        ("left = left - #entries", ""),
        f"{_STREAM}test_a_fetch_takes_the_first_streams_first_and_never_more_than_its_count[valkey]",
    )
    for guard, text in (
        ("nothing is pending", "fields['pending'] == 0 and "),
        ("it is idle", "fields['idle'] > tonumber(ARGV[2]) and "),
        ("its process is dead", " and not alive[fields['name']]"),
    ):
        yield _guard(
            f"forget consumers: {guard}",
            f"{_LUA}/forget_consumers.lua",
            (text, ""),
            f"{_STREAM}test_a_consumer_is_forgotten_only_when_it_is_dead_idle_and_has_nothing_pending[valkey]",
        )

    yield _guard(
        "forget consumers: what is pending with somebody stays",
        f"{_LUA}/forget_consumers.lua",
        ("if not first then", "if true then"),
        "tests/stream/test_lost_pending.py::test_what_is_pending_and_what_comes_after_it_stays[valkey]",
    )


def _callbacks() -> Iterator[Mutant]:
    """On PostgreSQL an end that tells has a statement of its own; on SQLite a second one in its transaction."""
    waits = f"{_CALLBACKS}test_what_waits_again_tells_nothing[{{pair}}-raised]"
    batch = f"{_CALLBACKS}test_of_a_batch_those_tell_that_want_to_and_ended[{{pair}}]"
    yield from _statement(
        "history row",
        "settle_calling",
        {
            "postgresql": (
                "attempt_error, worker_id FROM settled",
                "attempt_error, worker_id FROM settled LIMIT 0",
            )
        },
        batch,
    )
    part = f"{_SQL}/postgresql/call_back.part"
    yield _guard(
        "callback: of a terminal status (PostgreSQL)",
        part,
        (f" AND s.status IN {_TERMINAL}", ""),
        waits.replace("{pair}", "postgresql"),
    )
    yield _guard(
        "callback: of a job that wants one (PostgreSQL)",
        part,
        ("s.callback_url IS NOT NULL AND ", ""),
        batch.replace("{pair}", "postgresql"),
    )
    yield _guard(
        "callback: of a terminal status (SQLite)",
        "jobserver/store/jobs.py",
        ("if unique[claim].calls_back and won.status in TERMINAL", "if unique[claim].calls_back"),
        waits.replace("{pair}", "sqlite"),
    )
    yield _guard(
        "callback: of a job that wants one (SQLite)",
        "jobserver/store/jobs.py",
        ("if unique[claim].calls_back and won", "if won"),
        batch.replace("{pair}", "sqlite"),
    )
    yield _guard(
        "callback: a batch with one is not plain",
        "jobserver/store/jobs.py",
        ("and not settlement.calls_back", ""),
        "tests/store/test_callbacks.py::test_among_jobs_that_all_completed_the_one_that_wants_to_tells[postgresql]",
    )
    yield _guard(
        "callback: jobs of the dead tell too",
        "jobserver/upkeep/reclaim.py",
        ("calls_back=lost.job.callback_url is not None", "calls_back=False"),
        f"{_TELLING}test_a_callback_is_in_the_stream_at_once[sqlite-by_reclaim]",
    )
    yield _guard(
        "callback: its message is sent at once",
        "jobserver/pipeline/finish.py",
        ("self._deliveries.call_back(called)", "pass"),
        f"{_TELLING}test_a_callback_is_in_the_stream_at_once[sqlite-by_finish]",
    )
    yield _guard(
        "callback: the secrets that sign it stay in this process",
        "jobserver/pipeline/execute.py",
        ("return handler.type != CALLBACK", "return True"),
        f"{_TELLING}test_a_callback_that_was_lost_with_its_worker_is_signed_all_the_same[sqlite]",
    )
    yield _guard(
        "callback: the connection is checked again",
        "jobserver/builtin/callback.py",
        ("allow_private=self._allow_private,", "allow_private=True,"),
        f"{_TELLING}test_a_name_that_turns_private_after_the_submit_is_refused[sqlite]",
    )
    states = f"{_TELLING}test_secrets_are_kept_by_their_states[{{pair}}]"
    yield from _statement(
        "not revoked",
        "signing_secrets",
        _same(("revoked_at IS NULL AND ", "")),
        f"{_TELLING}test_five_secrets_sign_and_no_more[{{pair}}]",
    )
    yield from _statement(
        "its time is not over",
        "signing_secrets",
        {
            "postgresql": (" AND (expires_at IS NULL OR expires_at > clock_timestamp())", ""),
            "sqlite": (" AND (expires_at IS NULL OR expires_at > :now)", ""),
        },
        states,
    )
    yield from _statement(
        "none in place of a revoked one",
        "first_secret",
        _same((" WHERE NOT EXISTS (SELECT 1 FROM callback_secrets)", " WHERE true")),
        f"{_TELLING}test_while_secrets_rotate_both_sign_and_a_revoked_one_does_not[{{pair}}]",
    )
    yield from _statement(
        "a second rotation keeps none longer",
        "retire_secrets",
        {
            "postgresql": (
                " AND (expires_at IS NULL OR expires_at > clock_timestamp() + make_interval(secs => :overlap_seconds))",
                "",
            ),
            "sqlite": (
                " AND (expires_at IS NULL OR expires_at > :now + CAST(:overlap_seconds * 1000000 AS INTEGER))",
                "",
            ),
        },
        states,
    )
    yield from _statement("once", "revoke_secret", _same((" AND revoked_at IS NULL", "")), states)


def _all() -> Iterable[Mutant]:
    for part in (
        _access,
        _submit,
        _claim,
        _while_it_runs,
        _settle,
        _fingerprints,
        _complete,
        _commands,
        _locks,
        _policy,
        _pipeline,
        _stream,
        _reconcile,
        _reclaim,
        _death,
        _pulse,
        _callbacks,
    ):
        yield from part()


MUTANTS: Final = tuple(_all())
