"""Every key of the pillar's ``openhim``: its kind, whether it must be there, and what it means.

docs/reference/pillar.md is written from this table (``make docs``).
"""

from __future__ import annotations

from saltext.openhim.schema.kinds import (
    Address,
    Either,
    Flag,
    Free,
    Key,
    ListOf,
    MapOf,
    Number,
    Secret,
    Text,
    Tree,
    choice,
)
from saltext.openhim.schema.plan_table import PLAN

NAME = Text("a name of letters, digits, '.', '_' and '-'", pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*")
STACK_NAME = Text(
    "a name of at most 63 letters, digits, '.', '_' and '-'",
    pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
)
MINION_ID = Text("a minion ID", pattern=r"[^\s/:]+")
HOST_NAME = Text(
    "a host name or an IP address", pattern=r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?"
)
DATABASE_NAME = Text("a database's name", pattern=r"[^\s/\\.\"$*<>:|?]{1,63}")
SECRET_NAME = Secret(
    "the name of an entry of openhim:secrets", pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*"
)
VERSION = Text("a version such as '6.0.5'", pattern=r"\d+\.\d+\.\d+([-.+~]\S+)?")
SOURCE_HASH = Text(
    "algorithm=digest, or where a file with it is", pattern=r"(\w+=[0-9a-fA-F]+|\w+://\S+|/\S+)"
)
SOURCE = Text("a URL or a path (salt://, https://, /…)", pattern=r"(\w+://\S+|/\S+)")
PATH = Text("an absolute path", pattern=r"/\S*")
DOMAIN_NAME = Text(
    "a domain name such as 'him.example.org'",
    pattern=r"(?=.{1,254}$)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*"
    r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.?",
)
EMAIL = Text("an e-mail address", pattern=r"[^\s@]+@[^\s@]+")
CERTIFICATE = Text("a certificate (PEM)", pattern=r"(?s)\s*-----BEGIN CERTIFICATE-----.*")
VARIABLE = Text("an environment variable", pattern=r"[A-Z][A-Z0-9_]*")
PORT = Number(1, 65535)
TEXTS = ListOf(Text())
PROFILE = choice("production", "reduced")
ROLES = ("mongodb", "core", "backup", "master")

SITE = Tree({"description": Key(Text(), "What a person calls the site.")}, empty=True)

HOST = Tree(
    {
        "site": Key(NAME, "The site where it stands: an entry of `sites`.", required=True),
        "address": Key(
            Address(), "Where the other hosts reach it; two hosts never share one.", required=True
        ),
        "name": Key(
            HOST_NAME, "Its name in replica sets, URLs and certificates.", default="the minion ID"
        ),
        "roles": Key(
            ListOf(choice(*ROLES), at_least=1),
            "`mongodb` (may hold members), `core` (OpenHIM), `backup`, `master` (Salt's).",
            required=True,
        ),
        "standby": Key(
            Flag(),
            "It need not be there until a rebuild makes its site the active one; until then it is "
            "no part of the stack. With a `mongodb` role it reads the repositories.",
            default="false",
        ),
    }
)

MEMBER = Tree(
    {
        "priority": Key(
            Number(0, 1000, whole=False),
            "The higher, the rather it becomes primary. Highest at the active site; 0: never.",
            default="1",
        ),
        "votes": Key(
            Number(0, 1), "Whether it votes; without a vote `priority` must be 0.", default="1"
        ),
        "hidden": Key(Flag(), "Not shown to clients; `priority` must be 0 then.", default="false"),
        "port": Key(PORT, "Its own port, where it differs from the set's.", default="the set's"),
    },
    empty=True,
)

REPLICA_SET = Tree(
    {
        "port": Key(PORT, "The port of its members.", default="27017"),
        "members": Key(
            MapOf(MEMBER, MINION_ID, at_least=1),
            "By minion ID. The number of votes is odd and at most 7.",
            required=True,
        ),
    }
)

DATABASE = Tree(
    {
        "name": Key(DATABASE_NAME, "The database.", required=True),
        "replica_set": Key(
            NAME, "The set that holds it: an entry of `replica_sets`.", required=True
        ),
    }
)

MONGODB_INSTALL = Tree(
    {
        "method": Key(
            choice("package", "archive", "preinstalled"),
            "From a package repository, from an archive (.tgz), or it is there already.",
            required=True,
        ),
        "package": Key(Text(), "`package`: its name.", default="mongodb-org-server"),
        "repository": Key(
            Text(), "`package`: the line of the apt repository. Required for this method."
        ),
        "key": Key(SOURCE, "`package`: where the key is that signs the repository."),
        "source": Key(SOURCE, "`archive`: where it is. Required for this method."),
        "source_hash": Key(SOURCE_HASH, "`archive`: its hash. Required for this method."),
        "binary": Key(PATH, "`preinstalled`: where mongod is. Required for this method."),
    }
)

MONGODB_USER = Tree(
    {
        "secret": Key(SECRET_NAME, "The secret that is its password.", required=True),
        "roles": Key(
            ListOf(
                Tree(
                    {
                        "role": Key(Text(), "A role of MongoDB.", required=True),
                        "db": Key(Text(), "The database it is for.", required=True),
                    }
                ),
                at_least=1,
            ),
            "What it may do.",
            required=True,
        ),
        "operator": Key(
            Flag(), "Salt administers the sets as this user; exactly one is.", default="false"
        ),
    }
)

MONGODB = Tree(
    {
        "version": Key(VERSION, "MongoDB's version, in full.", required=True),
        "install": Key(MONGODB_INSTALL, "Where it comes from.", required=True),
        "replica_sets": Key(
            MapOf(REPLICA_SET, NAME, at_least=1), "The sets, by name.", required=True
        ),
        "databases": Key(
            Tree(
                {
                    "main": Key(DATABASE, "OpenHIM's main database.", required=True),
                    "audit": Key(
                        DATABASE, "Its audit records; may be the same one.", required=True
                    ),
                }
            ),
            "OpenHIM's two databases.",
            required=True,
        ),
        "durability": Key(
            choice("majority", "every-site"),
            "When a write is acknowledged. `every-site` loses none of them with a site, costs its "
            "latency, and acknowledges nothing while a site is away.",
            default="majority",
        ),
        "write_timeout_ms": Key(
            Number(1), "`every-site`: how long a write may wait.", default="10000"
        ),
        "election_timeout_ms": Key(
            Number(100), "How long a primary may be silent before an election.", default="10000"
        ),
        "tls": Key(
            Flag(),
            "Encrypt between members and from clients; needs `certificates`.",
            default="false",
        ),
        "tls_ca_file": Key(PATH, "The CA that clients trust.", default="/etc/openhim-tls/ca.crt"),
        "cache_size_gb": Key(
            Number(0.25, 10000, whole=False),
            "WiredTiger's cache per mongod, in GB.",
            default="MongoDB's own",
        ),
        "config": Key(Free(), "Any key of mongod.conf, laid over what this package writes."),
        "users": Key(MapOf(MONGODB_USER, NAME, at_least=1), "Users, by name.", required=True),
    }
)

CORE_INSTALL = Tree(
    {
        "method": Key(
            choice("npm", "archive"), "From npm, or from a release archive.", required=True
        ),
        "source": Key(SOURCE, "`archive`: where it is. Required for this method."),
        "source_hash": Key(SOURCE_HASH, "`archive`: its hash. Required for this method."),
        "overrides": Key(Free("a mapping of texts"), "`npm`: versions of dependencies to use."),
    }
)

CORE = Tree(
    {
        "version": Key(VERSION, "OpenHIM core's version, in full.", required=True),
        "install": Key(CORE_INSTALL, "Where it comes from.", required=True),
        "node_package": Key(Text(), "The system package with Node.", default="nodejs"),
        "node_options": Key(TEXTS, "Options of Node; `./` is the release's folder.", default="[]"),
        "database_user": Key(
            NAME, "As whom it connects: an entry of `mongodb:users`.", default="openhim"
        ),
        "node": Key(PATH, "Node's program.", default="/usr/bin/node"),
        "api_certificate": Key(
            PATH, "The certificate that the API shows, where it is not the keystore's."
        ),
        "ports": Key(
            Tree(
                {
                    "api": Key(PORT, "Its API (HTTPS).", default="8080"),
                    "http": Key(PORT, "The router, HTTP.", default="5001"),
                    "https": Key(PORT, "The router, HTTPS.", default="5000"),
                }
            ),
            "Where it listens; all different.",
        ),
        "config": Key(Free(), "Any key of OpenHIM's own configuration, laid over ours."),
        "administrator": Key(
            Tree(
                {
                    "email": Key(EMAIL, "The e-mail address.", default="root@openhim.org"),
                    "secret": Key(
                        SECRET_NAME,
                        "The secret that is the password.",
                        default="openhim_administrator",
                    ),
                }
            ),
            "The user as whom Salt uses the API.",
        ),
        "synthetic": Key(
            Tree(
                {
                    "client": Key(NAME, "The client that sends it.", default="openhim-synthetic"),
                    "secret": Key(
                        SECRET_NAME, "The secret that is its password.", default="openhim_synthetic"
                    ),
                    "port": Key(PORT, "Where its upstream answers, on the loopback interface."),
                }
            ),
            "The synthetic transaction that proves the service.",
        ),
    }
)

ROUTE = Tree(
    {
        "name": Key(Text(), "The route's name.", required=True),
        "host": Key(
            Either(HOST_NAME, MapOf(HOST_NAME, NAME, at_least=1)),
            "The upstream; by site where it differs, because those of a dead site are dead too.",
        ),
        "port": Key(PORT, "The upstream's port."),
        "secret": Key(SECRET_NAME, "The secret that is the upstream's password."),
        "type": Key(choice("http", "kafka"), "OpenHIM's."),
        "status": Key(choice("enabled", "disabled"), "OpenHIM's."),
        **{
            name: Key(Flag(), "OpenHIM's.")
            for name in ("secured", "primary", "forwardAuthHeader", "waitPrimaryResponse")
        },
        **{
            name: Key(Text(), "OpenHIM's.")
            for name in (
                "cert",
                "path",
                "pathTransform",
                "username",
                "statusCodesCheck",
                "kafkaClientId",
                "kafkaTopic",
            )
        },
    }
)

# The keys of OpenHIM's channels, of the versions 4 to 8.
CHANNEL = Tree(
    {
        "urlPattern": Key(Text(), "Which requests it takes: a regular expression."),
        "type": Key(choice("http", "tcp", "tls", "polling"), "What it listens to.", default="http"),
        "status": Key(choice("enabled", "disabled"), "Whether it works.", default="enabled"),
        "allow": Key(TEXTS, "Client roles, or client IDs, that may use it."),
        "methods": Key(
            ListOf(
                choice(
                    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"
                )
            ),
            "HTTP methods.",
        ),
        "routes": Key(ListOf(ROUTE, at_least=1), "Where to. One is primary.", required=True),
        "authType": Key(choice("private", "public"), "Who may use it.", default="private"),
        "tcpPort": Key(PORT, "`tcp` and `tls`: where it listens. Required for these."),
        "tcpHost": Key(Text(), "`tcp` and `tls`: the address where it listens."),
        "pollingSchedule": Key(Text(), "`polling`: when."),
        "timeout": Key(Number(1, 3600000), "In milliseconds."),
        "priority": Key(Number(1), "Which channel is asked first; 1 before 2."),
        "maxBodyAgeDays": Key(Number(1, 36500), "How long bodies are kept."),
        "autoRetryPeriodMinutes": Key(Number(1), "How often it tries again."),
        "autoRetryMaxAttempts": Key(Number(0), "How many times at most; 0: no limit."),
        **{
            name: Key(Flag(), "OpenHIM's.")
            for name in (
                "isAsynchronousProcess",
                "requestBody",
                "responseBody",
                "rewriteUrls",
                "addAutoRewriteRules",
                "autoRetryEnabled",
            )
        },
        **{
            name: Key(Text(), "OpenHIM's.")
            for name in (
                "description",
                "matchContentRegex",
                "matchContentXpath",
                "matchContentJson",
                "matchContentValue",
            )
        },
        **{
            name: Key(TEXTS, "OpenHIM's.")
            for name in (
                "whitelist",
                "matchContentTypes",
                "txViewAcl",
                "txViewFullAcl",
                "txRerunAcl",
            )
        },
        **{
            name: Key(ListOf(Free()), "OpenHIM's.")
            for name in ("properties", "alerts", "rewriteUrlsConfig")
        },
    }
)

CLIENT = Tree(
    {
        "name": Key(Text(), "What people call it.", default="its ID"),
        "roles": Key(TEXTS, "Its roles; channels allow them.", required=True),
        "secret": Key(SECRET_NAME, "The secret that is its password (basic auth)."),
        **{
            name: Key(Text(), "OpenHIM's.")
            for name in (
                "clientDomain",
                "customTokenID",
                "certFingerprint",
                "organization",
                "location",
                "softwareName",
                "description",
                "contactPerson",
                "contactPersonEmail",
            )
        },
    }
)

USER = Tree(
    {
        "firstname": Key(Text(), "First name.", required=True),
        "surname": Key(Text(), "Surname.", required=True),
        "groups": Key(TEXTS, "OpenHIM's roles; `admin` may do everything.", required=True),
        "secret": Key(SECRET_NAME, "The secret that is the password.", required=True),
        "msisdn": Key(Text(), "The phone for alerts."),
        "dailyReport": Key(Flag(), "OpenHIM's."),
        "weeklyReport": Key(Flag(), "OpenHIM's."),
        "settings": Key(Free(), "OpenHIM's."),
    }
)

OBJECTS = Tree(
    {
        "clients": Key(MapOf(CLIENT, at_least=0), "By client ID."),
        "channels": Key(MapOf(CHANNEL), "By name."),
        "users": Key(MapOf(USER, EMAIL), "By e-mail address."),
        "roles": Key(
            MapOf(
                Tree(
                    {
                        "channels": Key(TEXTS, "The channels that allow it; no others do."),
                        "clients": Key(TEXTS, "The clients that have it; no others do."),
                    }
                )
            ),
            "By name (OpenHIM 8).",
        ),
        "mediators": Key(
            MapOf(
                Tree(
                    {
                        "config": Key(Free(), "Its parameters."),
                        "secrets": Key(
                            MapOf(SECRET_NAME), "Parameters that are secret: the secret's name."
                        ),
                    }
                )
            ),
            "By URN.",
        ),
        "keystore": Key(
            Tree(
                {
                    "certificate": Key(CERTIFICATE, "The router's certificate."),
                    "certificate_file": Key(PATH, "Or the file on the core host that holds it."),
                    "secret": Key(SECRET_NAME, "The secret that is its key (PEM)."),
                    "key_file": Key(PATH, "Or the file on the core host that holds the key."),
                    "passphrase_secret": Key(SECRET_NAME, "The secret that opens the key."),
                    "trusted": Key(
                        ListOf(Text("a certificate (PEM) or the path of one")),
                        "Certificates of clients and upstreams.",
                    ),
                }
            ),
            "The HTTPS router's certificate, and whom it trusts.",
        ),
    }
)

CERTIFICATES = Tree(
    {
        "method": Key(
            choice("x509", "pillar"),
            "`x509`: issued by Salt's x509 modules; the secrets are `tls_ca` on every host and "
            "`tls_ca_key` on the CA's. `pillar`: the secrets `tls_ca`, `tls_certificate` and "
            "`tls_key` of every host.",
            required=True,
        ),
        "ca_server": Key(MINION_ID, "`x509`: the minion that holds the CA's key. Required then."),
        "days_valid": Key(Number(1), "`x509`: how long a certificate is valid.", default="825"),
        "days_remaining": Key(
            Number(0), "Renewed, and reported, when fewer days are left.", default="30"
        ),
    }
)

NETWORKS = ListOf(Address(network=True))

FIREWALL = Tree(
    {
        "enabled": Key(Flag(), "Whether this package writes the firewall.", required=True),
        "ssh_from": Key(
            NETWORKS,
            "Who may use SSH. Must be said (`[]`: nobody), lest you lock yourself out.",
            required=True,
        ),
        "salt_from": Key(NETWORKS, "Who may reach Salt's master.", default="[]"),
        "extra": Key(
            ListOf(
                Tree(
                    {
                        "port": Key(PORT, "The port.", required=True),
                        "protocol": Key(choice("tcp", "udp"), "The protocol.", default="tcp"),
                        "from": Key(NETWORKS, "Who may reach it.", default="anyone"),
                        "roles": Key(ListOf(choice(*ROLES)), "On which hosts.", default="all"),
                        "comment": Key(Text(), "Why."),
                    }
                )
            ),
            "More that is open.",
            default="[]",
        ),
    }
)

LEASE = Tree(
    {
        "enabled": Key(Flag(), "Whether there is a lease.", required=True),
        "seconds": Key(
            Number(10, 120),
            "How long it holds. A failover waits for its end; a witness that is away for as long "
            "cuts clients off.",
            default="30",
        ),
        "renew_every_seconds": Key(
            Number(1, 40), "How often hosts ask; at most a third of `seconds`.", default="5"
        ),
        "max_skew_seconds": Key(
            Number(0.1, 10, whole=False),
            "How far the clocks of a host and the witness may be apart, and how much longer a "
            "failover waits.",
            default="2",
        ),
        "witness": Key(
            MINION_ID,
            "The host that renews it, at another site than the active one.",
            default="the host with the role `master`",
        ),
        "port": Key(PORT, "Where the witness listens.", default="4520"),
    }
)

REPOSITORY = Tree(
    {
        "url": Key(
            Text("a repository as restic writes it: /path, sftp:…, rest:…, s3:…", pattern=r"\S+"),
            "Where it is, as restic writes it. `{name}` stands for a secret, as in "
            "`rest:https://producer:{store_password}@host/`.",
            required=True,
        ),
        "secret": Key(SECRET_NAME, "The secret that encrypts and opens it.", required=True),
        "environment": Key(
            MapOf(SECRET_NAME, VARIABLE),
            "Credentials of the storage, by the variable that restic reads: the secret's name.",
        ),
        "options": Key(TEXTS, "restic's extended options, such as `sftp.args=…`; no secrets."),
        "copy_of": Key(
            NAME, "The repository whose restore points are pulled into this one, by `pulled_by`."
        ),
        "pulled_by": Key(MINION_ID, "The host that pulls, best at another site."),
        "pruned_by": Key(
            MINION_ID,
            "The host that removes old restore points, never the one that takes them.",
        ),
        "prune_url": Key(
            Text("a repository as restic writes it", pattern=r"\S+"), "Where it prunes."
        ),
        "prune_environment": Key(
            MapOf(SECRET_NAME, VARIABLE), "The credentials with which it prunes."
        ),
    }
)

START_BUNDLE = Tree(
    {
        "secret": Key(
            SECRET_NAME,
            "The recovery key: the one password of these repositories. Keep it elsewhere as well.",
            required=True,
        ),
        "repositories": Key(
            MapOf(
                Tree({key: REPOSITORY.keys[key] for key in ("url", "environment")}),
                NAME,
                at_least=1,
            ),
            "By name; two or more, at different sites or providers. No other repository's.",
            required=True,
        ),
        "paths": Key(
            ListOf(PATH),
            "What the master needs beside what its configuration names.",
            default="[]",
        ),
        "max_age_seconds": Key(
            Number(60), "A highstate stores another one when the newest is older.", default="86400"
        ),
    }
)

OPLOG = Tree(
    {
        "archived_by": Key(
            MINION_ID, "The host that archives; best at a distant site.", required=True
        ),
        "repository": Key(
            Tree({k: v for k, v in REPOSITORY.keys.items() if k not in ("copy_of", "pulled_by")}),
            "Where the slices are: a repository of its own, for they are many.",
            required=True,
        ),
        "copy": Key(
            Tree(
                {k: v for k, v in REPOSITORY.keys.items() if k not in ("copy_of", "pulled_by")}
                | {
                    "pulled_by": Key(
                        MINION_ID, "The host that pulls, best at another site.", required=True
                    )
                }
            ),
            "A second place for the slices, at another site or provider, with a key of its own; "
            "filled with the schedule of `copy`.",
        ),
        "interval_seconds": Key(
            Number(1), "A slice is committed after so many seconds.", default="60"
        ),
        "max_behind_seconds": Key(
            Number(1),
            "It fails when what it archived last is older than this.",
            default="twice the interval and 60",
        ),
    }
)

BACKUP = Tree(
    {
        "taken_by": Key(
            MINION_ID, "The host that takes restore points; best at a distant site.", required=True
        ),
        "user": Key(
            NAME, "The entry of `mongodb:users` as whom; MongoDB's role `backup`.", required=True
        ),
        "repositories": Key(
            MapOf(REPOSITORY, NAME, at_least=1),
            "By name; two or more, at different sites or providers.",
            required=True,
        ),
        "recovery_secret": Key(
            SECRET_NAME,
            "The recovery key that opens every repository; kept elsewhere once it was added.",
        ),
        "verification_secret": Key(
            SECRET_NAME,
            "What signs the verifications: only those who verify and prune have it, and no other "
            "verification counts for them.",
        ),
        "bundle": Key(
            START_BUNDLE,
            "The start bundle: all that a new Salt master is made of, stored by the hosts with the "
            "role `master`.",
        ),
        "files": Key(
            ListOf(PATH),
            "Files and folders of `taken_by` that belong to a restore point.",
            default="[]",
        ),
        "retention": Key(
            Tree(
                {
                    **{
                        name: Key(Number(0), f"{words} are kept.", default="0")
                        for name, words in (
                            ("last", "So many of the newest restore points"),
                            ("hourly", "The newest of so many hours"),
                            ("daily", "The newest of so many days"),
                            ("weekly", "The newest of so many weeks"),
                            ("monthly", "The newest of so many months"),
                            ("yearly", "The newest of so many years"),
                        )
                    },
                    "minimum_verified": Key(
                        Number(0),
                        "Nothing is removed while fewer verified ones would be left.",
                        default="1",
                    ),
                }
            ),
            "Which restore points are kept; all when left out.",
        ),
        "keep_aside_days": Key(
            Number(1),
            "For so many days the data stays that `orch.restore` has replaced; it is kept aside "
            "before.",
            default="30",
        ),
        "oplog": Key(
            OPLOG, "The oplog archive, from which every time between restore points is restored."
        ),
        "verified_by": Key(MINION_ID, "The host that restores them to verify them."),
        "assertions": Key(
            ListOf(
                Tree(
                    {
                        "collection": Key(Text(), "`database.collection`.", required=True),
                        "at_least": Key(Number(0), "It has so many documents, or more."),
                        "newest": Key(
                            Tree(
                                {
                                    "field": Key(Text(), "A field that is a date.", required=True),
                                    "within_seconds": Key(
                                        Number(1), "How old it may be.", required=True
                                    ),
                                }
                            ),
                            "Its newest document is not older, at the restore point's time.",
                        ),
                    }
                )
            ),
            "What must be so in a restore point, beside what the manifest says.",
        ),
        "schedule": Key(
            Tree(
                {
                    name: Key(Number(60), f"Seconds between {words}.")
                    for name, words in (
                        ("take", "two restore points"),
                        ("copy", "two pulls into the copies"),
                        ("verify", "two verifications"),
                        ("prune", "two removals of what retention does not keep"),
                        ("bundle", "two start bundles"),
                    )
                }
            ),
            "What the minions do by themselves.",
        ),
        "max_age_seconds": Key(
            Number(60), "An older newest restore point is a failure.", default="86400"
        ),
        "max_unverified_seconds": Key(
            Number(60), "So long without a verified one is a degradation.", default="604800"
        ),
    }
)

DRILLS = Tree(
    {
        "run_by": Key(
            MINION_ID,
            "The host that holds functional drills and keeps the record of all; it needs the keys "
            "of the repositories, memory for the data, and reaches nobody's database.",
            required=True,
        ),
        "max_age_seconds": Key(
            Tree(
                {
                    "functional": Key(Number(60), "Restored, started, tried, by this package."),
                    "full": Key(Number(60), "Recovered by people, as in a disaster."),
                    "tabletop": Key(Number(60), "Talked through."),
                }
            ),
            "By kind: after so many seconds without one that was passed it is overdue, an alarm.",
            required=True,
        ),
        "schedule": Key(
            Tree({"functional": Key(Number(60), "Seconds between two drills.")}),
            "What the host does by itself.",
        ),
        "observe_seconds": Key(
            Number(0, 86400),
            "How long OpenHIM is watched after it served; its timers fire within a minute.",
            default="65",
        ),
    }
)

TSIG_KEY = Tree(
    {
        "name": Key(DOMAIN_NAME, "Its name on the name server.", required=True),
        "algorithm": Key(
            choice("hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"),
            "Its algorithm there.",
            default="hmac-sha256",
        ),
        "secret": Key(SECRET_NAME, "The secret that is the key, in base64.", required=True),
    }
)

CUT_OVER = Tree(
    {
        "dns": Key(
            Tree(
                {
                    "name": Key(DOMAIN_NAME, "The public name of OpenHIM.", required=True),
                    "zone": Key(DOMAIN_NAME, "The zone that it is in.", required=True),
                    "server": Key(
                        Address(),
                        "The zone's primary server, at no site that can be lost with OpenHIM.",
                        required=True,
                    ),
                    "port": Key(PORT, "Its port (TCP).", default="53"),
                    "ttl": Key(
                        Number(1, 86400),
                        "Seconds for which clients keep the old place after a cut-over.",
                        default="60",
                    ),
                    "key": Key(TSIG_KEY, "The TSIG key that signs the updates.", required=True),
                    "addresses": Key(
                        MapOf(ListOf(Address(), at_least=1), NAME, at_least=1),
                        "Where clients reach OpenHIM at each site; no two sites share one.",
                        required=True,
                    ),
                    "timeout_seconds": Key(Number(1, 300), "For each answer.", default="5"),
                }
            ),
            "By an update of the name server (RFC 2136).",
        ),
        "command": Key(
            Tree(
                {
                    "run": Key(
                        MapOf(ListOf(Text(), at_least=1), NAME, at_least=1),
                        "By site: the program and its arguments, no secrets among them. It runs "
                        "on the master.",
                        required=True,
                    ),
                    "points_to": Key(
                        ListOf(Text(), at_least=1),
                        "A program that prints the site to which clients are led. Without it a "
                        "cut-over is not read back.",
                    ),
                    "timeout_seconds": Key(Number(1, 3600), "Until it is killed.", default="60"),
                }
            ),
            "By a program of your own.",
        ),
    }
)

FENCING = Tree(
    {
        "power_off": Key(
            Tree(
                {
                    "run": Key(
                        ListOf(Text(), at_least=1),
                        "The program that switches a host off, and its arguments, `{host}` for its "
                        "ID, no secrets among them. It runs on the master.",
                        required=True,
                    ),
                    "state": Key(
                        ListOf(Text(), at_least=1),
                        "The program that prints how a host's power is. It changes nothing.",
                        required=True,
                    ),
                    "when_off": Key(
                        Text(), "What `state` prints of a host that is off.", required=True
                    ),
                    "timeout_seconds": Key(
                        Number(1, 600),
                        "Until a program is killed, and for a host to be off.",
                        default="60",
                    ),
                }
            ),
            "By the provider's power switch, for hosts of a lost site that are silent.",
        ),
    }
)

RECOVERY = Tree(
    {
        "epoch": Key(Number(0), "Which history is the real one."),
        "id": Key(Text(), "That epoch's ID."),
        "active_site": Key(NAME, "The site that is active now."),
        "profile": Key(PROFILE, "The profile that holds now."),
        "lost_sites": Key(ListOf(NAME), "Sites that are lost."),
        "kind": Key(Text(), "What minted the epoch: `failover`, `failback`…"),
        "error": Key(Text(), "Why the record could not be read; nothing runs then."),
    },
    # The recovery record has more to say than the states need.
    open=True,
    empty=True,
)

OPENHIM = Tree(
    {
        "stack": Key(
            STACK_NAME, "The stack's name; typed out to confirm what is dangerous.", required=True
        ),
        "profile": Key(
            PROFILE,
            "`reduced`: one member, one core, at the active site.",
            default="production",
        ),
        "active_site": Key(
            NAME,
            "Where OpenHIM runs and the primaries live. A recovery overrides it.",
            required=True,
        ),
        "sites": Key(MapOf(SITE, NAME, at_least=1), "Failure domains, by name.", required=True),
        "hosts": Key(MapOf(HOST, MINION_ID, at_least=1), "By minion ID.", required=True),
        "manage_hosts_file": Key(
            Flag(),
            "Write the hosts' names into /etc/hosts, so that no DNS is needed.",
            default="false",
        ),
        "mongodb": Key(MONGODB, "MongoDB.", required=True),
        "core": Key(CORE, "OpenHIM core.", required=True),
        "objects": Key(OBJECTS, "What must exist inside OpenHIM."),
        "certificates": Key(CERTIFICATES, "Where the hosts' certificates come from."),
        "firewall": Key(FIREWALL, "What is open."),
        "gate": Key(
            Tree(
                {
                    "enabled": Key(
                        Flag(),
                        "Whether mongod and OpenHIM start after a boot only on proof of the "
                        "current epoch: from the master, or by an operator's attestation.",
                        required=True,
                    )
                }
            ),
            "Hosts boot closed.",
        ),
        "lease": Key(LEASE, "The active site serves clients only while a witness renews it."),
        "clock": Key(
            Tree(
                {
                    "servers": Key(ListOf(HOST_NAME), "NTP servers.", required=True),
                    "max_offset_ms": Key(Number(1), "Farther off is a failure.", default="500"),
                }
            ),
            "Clock synchronisation.",
        ),
        "backup": Key(BACKUP, "Restore points: where, by whom, how often, for how long."),
        "drills": Key(DRILLS, "Is what was backed up enough to serve again: tried on schedule."),
        "cut_over": Key(CUT_OVER, "How clients are led to another site: by one of two ways."),
        "fencing": Key(FENCING, "How a host is kept from writing that answers nobody."),
        "targets": Key(
            Tree(
                {
                    "rpo_seconds": Key(Number(0), "How much may be lost."),
                    "rto_seconds": Key(Number(0), "How long it may be down."),
                }
            ),
            "What the business asks for; reports show what was measured beside it.",
        ),
        "plan": Key(
            PLAN,
            "The disaster recovery plan: who decides, who is told, what matters most. The runbook "
            "and the report are made from it.",
        ),
        "secrets": Key(
            MapOf(Secret(), SECRET_NAME),
            "Values by name, in pillar files of their own, on the hosts whose role needs them.",
        ),
        "recovery": Key(
            RECOVERY, "The recovery record; comes from the external pillar, not from a file."
        ),
    },
    words="the stack's declaration, a mapping",
)
