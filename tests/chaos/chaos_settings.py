"""The settings that make the chaos tests short."""

SETTINGS = {
    # A broker is declared dead, and a silent follower out of sync, within a few seconds.
    "zookeeper.session.timeout.ms": "4000",
    "replica.lag.time.max.ms": "3000",
    # A peer that does not answer is given up in time for the rest of the test.
    "replica.socket.timeout.ms": "3000",
    "controller.socket.timeout.ms": "3000",
}
SESSION_SECONDS = 4.0

# Where nobody is to be declared dead: not by a machine that is busy for a few seconds, either.
PATIENT_SETTINGS = SETTINGS | {"zookeeper.session.timeout.ms": "30000"}
