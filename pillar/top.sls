# Which minion sees what. The declaration holds no secret; every secret file goes only to the hosts
# whose role needs it.
base:
  '*':
    - openhim.production
  '*-db*':
    - secrets.mongodb
  '*-core*':
    - secrets.core
