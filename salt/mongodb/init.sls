# One mongod for each replica set that has a member on this host, then the sets themselves.
include:
  - openhim.checked
  - certificates
  - firewall
  - mongodb.install.{{ pillar['openhim']['mongodb']['install']['method'] }}
  - mongodb.instances
  - mongodb.replica_sets
