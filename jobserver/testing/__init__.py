"""For the tests of programs that use jobserver: handlers run inline, submits are looked at, time is moved by hand.

    async def test_a_welcome_is_sent():
        sandbox = Sandbox(handlers)
        with sandbox.capture():                       # every Client made in here talks to the sandbox
            await sign_up("a@b.c")                    # the code under test
        sandbox.assert_submitted(send_email.job(to="a@b.c", subject="Welcome"))
        [job] = await sandbox.run()
        assert job.status == "completed"

There is no server, no engine and no thread. What follows from an outcome is decided by the server's own rules.
"""

from jobserver.testing.attempts import Ran, perform
from jobserver.testing.sandbox import Sandbox

__all__ = ["Ran", "Sandbox", "perform"]
