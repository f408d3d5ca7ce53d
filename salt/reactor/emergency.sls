# A minion says that emergency mode was entered or left, or that an account for the emergency was
# opened or closed: people are told.
#
#   # /etc/salt/master.d/openhim.conf
#   openhim_notify: https://chat.example.org/hooks/…
#   reactor:
#     - 'openhim/emergency/*': [salt://reactor/emergency.sls]
#     - 'openhim/break_glass/*': [salt://reactor/emergency.sls]
{%- set said = data.get('data', {}) %}
people are told:
  runner.openhim_watch.notify:
    - args:
      - minion: {{ data['id'] | json }}
      - event: {{ {'stack': said.get('stack'), 'state': said.get('state'), 'text': said.get('text')} | json }}
