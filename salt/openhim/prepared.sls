# All that a host needs before data is restored: everything but a running OpenHIM, which would make a
# user and a keystore of its own in an empty database.
{%- set roles = salt['openhim.roles']() %}
include:
  - openhim.checked
{%- if roles %}
  - names
  - clock
  - certificates
  - firewall
  - fence
{%- endif %}
{%- if 'mongodb' in roles %}
  - mongodb
  - backup.restic
{%- endif %}
{%- if 'core' in roles %}
  - openhim.release
{%- endif %}
