# Looked at last and by a highstate only: it fails where a service that should run does not answer.
every certificate in use is valid for long enough:
  openhim_host.certificates_valid:
    - days_remaining: {{ pillar['openhim']['certificates'].get('days_remaining', 30) }}
    - order: last
