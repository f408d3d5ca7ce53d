# One declaration of one OpenHIM stack: two members in the primary site, one distant.
# Every key is explained in docs/reference/pillar.md; `salt-call openhim.pillar_check` checks it.
openhim:
  stack: example
  profile: production            # production | reduced (one member, one core, at the active site)
  active_site: north             # where OpenHIM runs and the primary lives; a recovery overrides it

  sites:
    north: {description: Primary data centre}
    south: {description: Distant data centre}
    west: {description: "Third place: the Salt master, and room for a rebuild"}

  hosts:                         # by minion ID
    master: {site: west, address: 10.20.0.10, roles: [master]}
    north-db1: {site: north, address: 10.20.1.11, roles: [mongodb]}
    north-db2: {site: north, address: 10.20.1.12, roles: [mongodb]}
    north-core: {site: north, address: 10.20.1.21, roles: [core]}
    south-db1: {site: south, address: 10.20.2.11, roles: [mongodb]}
    south-core: {site: south, address: 10.20.2.21, roles: [core]}
    west-backup: {site: west, address: 10.20.0.31, roles: [backup]}
  manage_hosts_file: true        # write the names above into /etc/hosts, so that no DNS is needed

  mongodb:
    version: 6.0.5
    install:
      method: archive            # package | archive | preinstalled
      source: salt://artifacts/mongodb.tgz
      source_hash: salt://artifacts/mongodb.tgz.sha256
    replica_sets:
      openhim:
        port: 27017
        members:
          north-db1: {priority: 10}
          north-db2: {priority: 9}
          south-db1: {priority: 1}
    databases:
      main: {name: openhim, replica_set: openhim}
      audit: {name: openhim_audit, replica_set: openhim}
    durability: majority         # majority | every-site (no acknowledged write is lost with a site)
    write_timeout_ms: 10000
    tls: true
    cache_size_gb: 0.25
    users:                       # the value of `secret` names an entry of openhim:secrets
      operator:                  # what Salt uses to administer the set
        secret: mongodb_operator
        roles: [{role: root, db: admin}]
        operator: true
      openhim:
        secret: mongodb_openhim
        roles:
          - {role: readWrite, db: openhim}
          - {role: readWrite, db: openhim_audit}
      backup:                    # as whom restore points are taken: it reads, and writes nothing
        secret: mongodb_backup
        roles: [{role: backup, db: admin}]

  core:
    version: 4.0.5
    install:
      method: archive            # npm | archive
      source: salt://artifacts/openhim-core.tar.gz
      source_hash: salt://artifacts/openhim-core.tar.gz.sha256
    node_package: nodejs
    node_options: [--require, ./preload.js, --unhandled-rejections=warn]
    database_user: openhim
    ports: {api: 8080, http: 5001, https: 5000}
    config:                      # any key of OpenHIM's own configuration
      logger: {logToDB: false}
      mongo: {openHIMApiReadPreference: primaryPreferred}
    administrator: {email: root@openhim.org, secret: openhim_administrator}
    synthetic: {client: openhim-synthetic, secret: openhim_synthetic}

  objects:                       # what must exist inside OpenHIM
    clients:
      laboratory:
        name: National laboratory
        roles: [laboratories]
        secret: client_laboratory
    channels:
      Laboratory orders:
        urlPattern: ^/laboratory/.*$
        allow: [laboratories]
        methods: [GET, POST]
        routes:
          - name: laboratory
            host: {north: 10.20.1.31, south: 10.20.2.31}   # by site: a dead site's upstream is dead too
            port: 8090
            primary: true
    users: {}

  certificates:
    method: x509                 # x509 (issued by Salt's x509 modules) | pillar
    ca_server: master            # the minion that holds the CA's key
    days_valid: 825
    days_remaining: 30           # renewed, and reported, when fewer days are left

  firewall:
    enabled: true
    ssh_from: [10.20.0.0/16]
    salt_from: [10.20.0.0/16]

  clock:
    servers: [10.20.0.10]
    max_offset_ms: 500

  backup:
    taken_by: south-db1          # from a secondary, at the distant site
    verified_by: west-backup
    verification_secret: backup_verification   # signs what was verified: pruning relies on it
    user: backup
    repositories:
      store:                     # append-only: who takes restore points cannot remove them
        url: rest:http://producer:{backup_store_producer}@10.20.0.40:8000/
        secret: backup_store
        pruned_by: west-backup
        prune_url: rest:http://keeper:{backup_store_keeper}@10.20.0.41:8000/
      copy:                      # pulled by another host, with a key of its own
        url: /var/lib/openhim-backup/copy
        secret: backup_copy
        copy_of: store
        pulled_by: west-backup
        pruned_by: west-backup
    bundle:                      # all that a new Salt master is made of; opened by one key alone
      secret: recovery_key
      repositories:
        store: {url: "rest:http://producer:{backup_store_producer}@10.20.0.40:8000/start-bundle/"}
    oplog:                       # every time between two restore points can be restored too
      archived_by: south-db1
      repository:
        url: rest:http://producer:{backup_store_producer}@10.20.0.40:8000/oplog/
        secret: backup_store
        pruned_by: west-backup
        prune_url: rest:http://keeper:{backup_store_keeper}@10.20.0.41:8000/oplog/
      copy:                      # at another place, too: both together are what a restore needs
        url: /var/lib/openhim-backup/oplog
        secret: backup_copy
        pulled_by: west-backup
        pruned_by: west-backup
      interval_seconds: 20
    files: [/etc/mongod]
    retention: {last: 3, hourly: 24, daily: 7, weekly: 5, monthly: 12, yearly: 6, minimum_verified: 2}
    keep_aside_days: 30          # what a restore replaces is kept before, for so long
    assertions:
      - {collection: openhim.channels, at_least: 1}
    schedule: {take: 3600, copy: 3600, verify: 86400, prune: 86400, bundle: 86400}   # seconds between two
    max_age_seconds: 7200

  drills:                        # a restore point is started where nothing gets out, and must serve
    run_by: west-backup
    schedule: {functional: 604800}
    max_age_seconds: {functional: 1209600, tabletop: 15768000, full: 31536000}

  # What switches a host of a lost site off that answers nobody (docs/topics/fencing.md):
  # fencing:
  #   power_off:                   # programs of your own, which run on the master
  #     run: [/usr/local/bin/provider, "off", "{host}"]
  #     state: [/usr/local/bin/provider, state, "{host}"]
  #     when_off: "off"            # what state prints of a host that is off
  #     timeout_seconds: 60

  targets:                       # what the business asks for; reports show what was measured beside it
    rpo_seconds: 60
    rto_seconds: 900

  plan:                          # the disaster recovery plan: runbook and report are made from it
    organisation: Ministry of Health
    contacts:                    # each is reached in one way at least, best in two
      ada: {name: Ada Mwale, phone: "+1 202 555 0101", email: ada@example.org}
      ben: {name: Ben Phiri, phone: "+1 202 555 0102", email: ben@example.org}
      chi: {name: Chikondi Banda, phone: "+1 202 555 0103"}
      north-desk: {name: Night desk of the primary data centre, phone: "+1 202 555 0110"}
      south-desk: {name: Night desk of the distant data centre, phone: "+1 202 555 0120"}
      laboratory: {name: National laboratory, phone: "+1 202 555 0130", other: radio channel 4}
    facilities:                  # by site: who lets people in
      north: {address: "1 Hospital Road, Northtown", access: [north-desk, ada]}
      south: {address: "7 Harbour Street, Southport", access: [south-desk, chi]}
      west: {address: "Provider, region west", access: [ben], instructions: By the provider's console}
    roles:                       # the first is in charge, the others succeed in this order
      coordinator: {duties: Declares the disaster and its end, holders: [ada, ben]}
      technical-lead: {duties: Runs the orchestrations, holders: [ben, chi, ada]}
      communications: {duties: Tells clinics and authorities, holders: [chi, ada]}
    activation:
      - {when: The primary site does not answer and is known to be off, after_seconds: 900,
         verb: failover, decided_by: coordinator}
      - {when: "OpenHIM's host is lost, MongoDB lives", after_seconds: 600,
         verb: core, decided_by: technical-lead}
      - {when: The data is corrupt or was deleted, verb: restore, decided_by: coordinator}
      - {when: No site is left, verb: rebuild, decided_by: coordinator}
    tiers:                       # what matters most, and what was promised
      critical:
        order: 1
        rpo_seconds: 60
        rto_seconds: 900
        max_downtime_seconds: 14400
        impact: Laboratories work blind; patients wait for treatment
        sla: 99.9 % a month, to the National laboratory
        strategy: warm standby
        cost: A member and a core at the distant site
        databases: [main]
        channels: [Laboratory orders]
      records:
        order: 2
        rpo_seconds: 3600
        rto_seconds: 86400
        max_downtime_seconds: 259200
        impact: Accesses are recorded late; nobody is harmed at once
        strategy: backup and restore
        databases: [audit]
        services: [Reports]
    communication:
      - {when: The disaster is declared, whom: [technical-lead, communications], by: coordinator,
         within_seconds: 600, acknowledged: true, template: "Disaster declared for {stack}: {reason}."}
      - {when: OpenHIM serves again, whom: [laboratory], by: communications, within_seconds: 1800,
         counts_from: service, acknowledged: true, template: "{stack} serves from {site}. Lost, at most: {rpo}."}
    emergency_mode: {channels: [Laboratory orders], entered_by: coordinator}
    tests:
      restore: {kind: verification, every_days: 7, owner: technical-lead}
      site-lost: {kind: drill, every_days: 90, owner: technical-lead, scenario: The primary site burns}
      tabletop: {kind: tabletop, every_days: 180, owner: coordinator, scenario: Ransomware}
      phones: {kind: contacts, every_days: 90, owner: communications}
    retention_years: 6
    copies:
      - {where: The safe of the distant data centre, kept_by: south-desk}
      - {where: Every host, host: west-backup, kept_by: ben}
