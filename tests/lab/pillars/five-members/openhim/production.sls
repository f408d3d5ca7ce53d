# The same shape as the example with other numbers: five members over three sites, the audit database
# on a set of its own, no default port, every write on every site, mongod from a package, certificates
# that were issued elsewhere.
openhim:
  stack: five
  profile: production
  active_site: north
  sites:
    north: {}
    south: {}
    west: {}
  hosts:
    master: {site: west, address: 10.20.0.10, roles: [master]}
    north-db1: {site: north, address: 10.20.1.11, roles: [mongodb]}
    north-db2: {site: north, address: 10.20.1.12, roles: [mongodb]}
    north-core: {site: north, address: 10.20.1.21, roles: [core]}
    south-db1: {site: south, address: 10.20.2.11, roles: [mongodb]}
    south-db2: {site: south, address: 10.20.2.12, roles: [mongodb]}
    south-core: {site: south, address: 10.20.2.21, roles: [core]}
    west-db1: {site: west, address: 10.20.3.11, roles: [mongodb]}
  manage_hosts_file: true
  mongodb:
    version: 6.0.5
    install:
      method: package
      repository: deb [signed-by=/etc/apt/keyrings/mongodb.asc] file:/srv/apt ./
      key: salt://artifacts/mongodb.asc
      package: mongodb-org-server
    replica_sets:
      main:
        port: 27117
        members:
          north-db1: {priority: 10}
          north-db2: {priority: 9}
          south-db1: {priority: 2}
          south-db2: {priority: 1}
          west-db1: {priority: 1}
      audit:
        port: 27118
        members:
          north-db1: {priority: 5}
          south-db1: {priority: 1}
          west-db1: {priority: 0.5}
    databases:
      main: {name: him, replica_set: main}
      audit: {name: him_audit, replica_set: audit}
    durability: every-site
    write_timeout_ms: 5000
    tls: true
    cache_size_gb: 0.25
    config:   # a mongod that is told to stop gives drivers 15 s to notice; nobody needs them here
      setParameter: {shutdownTimeoutMillisForSignaledShutdown: 1000}
    users:
      operator:
        secret: mongodb_operator
        roles: [{role: root, db: admin}]
        operator: true
      openhim:
        secret: mongodb_openhim
        roles:
          - {role: readWrite, db: him}
          - {role: readWrite, db: him_audit}
  core:
    version: 4.0.5
    install:
      method: archive
      source: salt://artifacts/openhim-core.tar.gz
      source_hash: salt://artifacts/openhim-core.tar.gz.sha256
    node_package: nodejs
    node_options: [--require, ./preload.js, --unhandled-rejections=warn]
    database_user: openhim
    ports: {api: 18080, http: 15001, https: 15000}
    config:
      logger: {logToDB: false}
      mongo: {openHIMApiReadPreference: primaryPreferred}
    administrator: {email: root@openhim.org, secret: openhim_administrator}
    synthetic: {client: openhim-synthetic, secret: openhim_synthetic}
  objects:
    clients:
      registry: {name: Registry, roles: [registries], secret: client_registry}
    channels: {}
    users: {}
  certificates:
    method: pillar
    days_remaining: 30
  firewall:
    enabled: true
    ssh_from: [10.20.0.0/16]
    salt_from: [10.20.0.0/16]
  clock:
    servers: [10.20.0.10]
    max_offset_ms: 500
  targets: {rpo_seconds: 0, rto_seconds: 900}
