# Which minion sees what; every host's certificate and key are in a file that only this host gets.
base:
  '*':
    - openhim.production
    - secrets.public
  '*-db*':
    - secrets.mongodb
  '*-core*':
    - secrets.core
  'master':
    - secrets.hosts.master
  'north-db1':
    - secrets.hosts.north-db1
  'north-db2':
    - secrets.hosts.north-db2
  'north-core':
    - secrets.hosts.north-core
  'south-db1':
    - secrets.hosts.south-db1
  'south-db2':
    - secrets.hosts.south-db2
  'south-core':
    - secrets.hosts.south-core
  'west-db1':
    - secrets.hosts.west-db1
