# Everything that one declared host needs. Its roles decide what that is; a pillar that is not
# allowed yields no role, so that nothing but the check runs, and the check says why.
{%- set roles = salt['openhim.roles']() %}

include:
  - openhim.checked
{%- if roles %}
  - names
  - clock
  - certificates
  - certificates.valid
  - firewall
  - fence
{%- endif %}
{%- if 'mongodb' in roles %}
  - mongodb
{%- endif %}
{%- if 'core' in roles %}
  - openhim.core
{%- endif %}
{%- if roles %}
  - lease
{%- endif %}
{%- if roles and pillar['openhim'].get('backup') and salt['openhim_backup.tasks']().schedule %}
  - backup
{%- endif %}
{%- if roles and salt['openhim_drill.tasks']().here %}
  - drill
{%- endif %}
{%- if 'master' in roles and (pillar['openhim'].get('backup') or {}).get('bundle') %}
  - backup.bundle
{%- endif %}
{%- if roles and pillar['openhim'].get('plan') %}
  - plan
{%- endif %}
