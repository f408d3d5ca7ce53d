# A minion says that a drill is overdue, failed, or was passed again: people are told.
#
#   # /etc/salt/master.d/openhim.conf
#   openhim_notify: https://chat.example.org/hooks/…
#   reactor:
#     - 'salt/beacon/*/openhim_drill/*': [salt://reactor/drills.sls]
people are told:
  runner.openhim_watch.notify:
    - args:
      - minion: {{ data['id'] | json }}
      - event: {{ {'what': 'drills', 'stack': data.get('stack'), 'state': data.get('state'), 'reasons': data.get('reasons', [])} | json }}
