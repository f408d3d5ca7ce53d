"""What differs between OpenHIM core's versions, all of it in this one place.

Read from OpenHIM's own sources at the tags named below:
https://github.com/jembi/openhim-core-js/tags
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from saltext.openhim.errors import OpenHIMError

#: What a user's password is until somebody changes it; every new database has this administrator.
SHIPPED_ADMINISTRATOR = "root@openhim.org"
SHIPPED_PASSWORD = "openhim-password"  # noqa: S105 - public knowledge, and replaced by us

#: The session key in OpenHIM's own default configuration (7.2 and later): public knowledge.
SHIPPED_SESSION_KEY = "r8q,+&1LM3)CD*zAGpx1xm{NeQhc;#"

_PRELOAD_4 = """\
// Loaded before OpenHIM (node --require): what its newer MongoDB drivers want to be told.
'use strict'
const mongoose = require('mongoose')

// MongoDB 3.6 removed $pushAll, which mongoose uses unless every schema says otherwise.
mongoose.plugin(schema => { schema.options.usePushEach = true })
// The old topology does not follow elections of current servers.
mongoose.set('useUnifiedTopology', true)
mongoose.set('useNewUrlParser', true)
mongoose.set('useCreateIndex', true)
mongoose.set('useFindAndModify', false)

// The scheduler (agenda) opens a connection of its own, without any options.
const { MongoClient } = require('mongodb')
const connect = MongoClient.connect
MongoClient.connect = (url, options, callback) => {
  if (typeof options === 'function') [options, callback] = [{}, options]
  return connect(url, { useUnifiedTopology: true, useNewUrlParser: true, ...options }, callback)
}

// The scheduler asks for connections before each job, which only the old topology lists; the
// unified one waits for a server by itself.
const NativeTopology = require('mongodb/lib/topologies/native_topology')
NativeTopology.prototype.connections = function () { return [this] }

// OpenHIM 4 stops its scheduler and cancels jobs with a callback, which this agenda does not take;
// without it neither a restart nor a stop would ever end, and where a channel polls no job would
// ever start.
const Agenda = require('agenda')
for (const name of ['stop', 'cancel']) {
  const original = Agenda.prototype[name]
  Agenda.prototype[name] = function (...words) {
    const callback = typeof words[words.length - 1] === 'function' ? words.pop() : null
    const done = original.apply(this, words)
    if (callback) done.then(result => callback(null, result), callback)
    return done
  }
}
"""

#: A module of OpenHIM's that fetches root certificates from the outside while it is loaded, and
#: what replaces it: the certificates that came with the package.
_BUNDLED_CERTIFICATES = {
    "node_modules/ssl-root-cas/ssl-root-cas-latest.js": (
        "module.exports = require('./ssl-root-cas')\n"
    )
}


@dataclass(frozen=True)
class Version:
    """One version of OpenHIM core, and what it wants."""

    text: str
    numbers: tuple[int, int, int]

    @property
    def api_port_key(self) -> str:
        """The key under ``api`` that holds the API's port: ``httpsPort`` before 5.4."""
        return "port" if self.numbers >= (5, 4, 0) else "httpsPort"

    @property
    def has_api_protocol(self) -> bool:
        """Whether ``api.protocol`` chooses between http and https; before, it is always https."""
        return self.numbers >= (5, 4, 0)

    @property
    def has_session_key(self) -> bool:
        """Whether the API signs sessions with ``api.sessionKey``."""
        return self.numbers >= (7, 2, 0)

    @property
    def has_basic_authentication(self) -> bool:
        """Whether the API accepts a user and password as shipped; before, only tokens."""
        return self.numbers >= (7, 1, 0)

    @property
    def has_passports(self) -> bool:
        """Whether passwords live apart from users and are sent to the API as they are.

        Before, the API is sent a salt and a hash, which the user's own document holds.
        """
        return self.numbers >= (7, 2, 0)

    @property
    def default_config(self) -> dict[str, dict[str, object]]:
        """What to say in the configuration unless the pillar says otherwise.

        The shipped read preference of version 4 is misspelt, which newer drivers refuse. Logging
        into the database uses a driver of its own, which does not connect to current servers; the
        service's journal has the same lines.
        """
        return {
            "mongo": {"openHIMApiReadPreference": "primaryPreferred"},
            "logger": {"logToDB": False},
        }

    @property
    def npm_files(self) -> dict[str, str]:
        """Files to write into a release that npm installed, by path relative to it."""
        if self.numbers >= (5, 0, 0):
            return {}
        return {"preload.js": _PRELOAD_4, **_BUNDLED_CERTIFICATES}


def parse(text: str) -> Version:
    """The version that ``text`` such as ``8.5.0`` or ``v8.5.0-rc.1`` names.

    Raises :class:`~saltext.openhim.errors.OpenHIMError` when it is not a version, or older than 4.
    """
    match = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)(?:[-+].*)?", str(text))
    if not match:
        raise OpenHIMError(
            f"openhim:core:version: found {text!r}; a full version such as 8.5.0 is needed."
        )
    major, minor, patch = (int(number) for number in match.groups())
    if major < 4:
        raise OpenHIMError(
            f"openhim:core:version: found {text!r}; OpenHIM core 4 or newer is supported."
        )
    return Version(str(text).removeprefix("v"), (major, minor, patch))
