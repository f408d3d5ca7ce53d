# Which minion sees what. The declaration holds no secret; every file of secrets goes only to the
# hosts whose roles need it.
base:
  '*':
    - openhim.production
    # - openhim.cut_over         # once a name server takes updates; with secrets.cut_over below
    - secrets.public             # the authority's certificate: no secret, but made with them
  '*-db*':
    - secrets.mongodb
  '*-core*':
    - secrets.core
  'south-db1':                   # openhim:backup:taken_by
    - secrets.backup
  'west-backup':                 # pulls copies, verifies, and removes what retention does not keep
    - secrets.backup_keeper
  'master':                      # openhim:certificates:ca_server; stores the start bundle
    - openhim.authority
    - secrets.authority
    - secrets.start_bundle
    # - secrets.cut_over
