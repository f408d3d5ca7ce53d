# A minion says that its backups are not well, or well again: people are told.
#
#   # /etc/salt/master.d/openhim.conf
#   openhim_notify: https://chat.example.org/hooks/…
#   reactor:
#     - 'salt/beacon/*/openhim_backup/*': [salt://reactor/backups.sls]
people are told:
  runner.openhim_watch.notify:
    - args:
      - minion: {{ data['id'] | json }}
      - event: {{ {'stack': data.get('stack'), 'state': data.get('state'), 'reasons': data.get('reasons', [])} | json }}
