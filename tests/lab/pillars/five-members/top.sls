base:
  '*':
    - openhim.production
    - secrets.public
  '*-db*':
    - secrets.mongodb
  '*-core*':
    - secrets.core
  'master':
    - openhim.authority
    - secrets.authority
