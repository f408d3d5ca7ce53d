"""The templates of the pages, for Jinja2. Salt syncs Python files alone, so they are texts here.

Values are escaped by themselves (autoescape); nothing is marked as safe but our own style sheet.
"""

# ruff: noqa: E501 - in HTML and in Markdown a line break is a space, or more than that.

from __future__ import annotations

BASE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
{% if refresh %}<meta http-equiv="refresh" content="{{ refresh }}">
{% endif %}<link rel="icon" href="data:,">
<title>{% block title %}{% endblock %}</title>
<style>
{{ style }}</style>
</head>
<body>
<a class="skip" href="#main">To the contents</a>
<header>{% block header %}{% endblock %}</header>
<main id="main" tabindex="-1">
{% block main %}{% endblock %}
</main>
<footer><p class="quiet">{% block footer %}{% endblock %}</p></footer>
</body>
</html>
"""

MACROS = """\
{% macro mark(state) -%}
{% set words = {'shown': ('✓', 'good'), 'missing': ('✗', 'bad'), 'unknown': ('?', 'doubt')} -%}
<span class="mark {{ words[state][1] }}" aria-hidden="true">{{ words[state][0] }}</span>
{%- endmacro %}

{% macro yes_no(value, yes, no, unknown) -%}
{% if value is none %}<span class="doubt">? {{ unknown }}</span>
{%- elif value %}<span class="good">✓ {{ yes }}</span>
{%- else %}<span class="bad">✗ {{ no }}</span>{% endif %}
{%- endmacro %}

{% macro plot(one, id) -%}
<figure style="margin:1rem 0">
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-labelledby="{{ id }}-t {{ id }}-d">
<title id="{{ id }}-t">{{ one.title }}</title>
<desc id="{{ id }}-d">{{ one.summary }}</desc>
{% for tick in one.across %}<line class="grid" x1="{{ left }}" x2="{{ width - right }}" y1="{{ tick.at }}" y2="{{ tick.at }}"/><text x="{{ left - 6 }}" y="{{ tick.at + 4 }}" text-anchor="end">{{ tick.text }}</text>
{% endfor %}{% for tick in one.along %}<text x="{{ tick.at }}" y="{{ height - 12 }}" text-anchor="{{ 'start' if loop.first else 'end' if loop.last else 'middle' }}">{{ tick.text }}</text>
{% endfor %}<path class="axis" d="M{{ left }} {{ top }}V{{ height - bottom }}H{{ width - right }}"/>
{% if one.limit %}<path class="limit" d="M{{ left }} {{ one.limit }}H{{ width - right }}"/><text class="limit-text" x="{{ width - right }}" y="{{ one.limit - 5 }}" text-anchor="end">{{ one.limit_text }}</text>
{% endif %}{% for line in one.lines %}<path class="s{{ loop.index0 % 3 }}" d="{{ line.path }}"><title>{{ line.name }}</title></path>
{% endfor %}{% for m in one.marks %}{% if m.kind == 'recovery' %}<rect class="square" x="{{ m.x - 5 }}" y="{{ m.y - 5 }}" width="10" height="10"><title>{{ m.text }}</title></rect>
{% else %}<circle class="dot" cx="{{ m.x }}" cy="{{ m.y }}" r="4"><title>{{ m.text }}</title></circle>
{% endif %}{% endfor %}</svg>
<figcaption class="quiet">{{ one.title }}. {{ one.summary }}{% if one.marks %} Squares are recoveries, dots are drills.{% endif %}{% if one.lines %} {% for line in one.lines %}{{ ['Solid', 'Dashed', 'Dotted'][loop.index0 % 3] }}: {{ line.name }}.{{ ' ' if not loop.last }}{% endfor %}{% endif %}</figcaption>
</figure>
{%- endmacro %}
"""

REPORT = """\
{% extends 'base' %}
{% from 'macros' import mark, yes_no, plot with context %}
{% block title %}Disaster recovery of {{ report.stack }}{% endblock %}
{% block header %}
<h1>Disaster recovery of {{ report.stack }}</h1>
<p class="quiet">{{ report.organisation or 'No organisation is declared' }}. As of {{ report.at | time }}, epoch {{ report.epoch }}, active site {{ report.active_site }}, declaration {{ report.digest[:12] }}.</p>
{% if stale %}<p role="note"><strong>Status page, written {{ report.at | second }}.</strong> It loads itself anew every {{ refresh | duration }}. <strong>After {{ stale | second }} it is stale:</strong> nobody renews it any more, and what it says may be over.</p>
{% endif %}<p>{{ report.findings.shown }} findings with evidence, {{ report.findings.missing }} missing, {{ report.findings.unknown }} not known.</p>
<nav aria-label="Sections"><p><a href="#clauses">Clauses</a> · <a href="#targets">Targets</a> · <a href="#topology">Topology</a> · <a href="#backups">Backups</a> · <a href="#exercises">Drills and recoveries</a> · <a href="#phases">After-action reports</a> · <a href="#evidence">Evidence</a></p></nav>
{% endblock %}
{% block main %}
<section aria-labelledby="clauses">
<h2 id="clauses">45 CFR Part 164, clause by clause</h2>
<p class="quiet">What is missing is named. Whether the evidence suffices is for a person to decide.</p>
{% for clause in report.clauses %}
<h3>{{ mark(clause.state) }}{{ clause.id }} {{ clause.title }} <span class="tag">({{ clause.needed }})</span></h3>
<p class="quiet">{{ clause.asks }}</p>
<ul class="findings">
{% for finding in clause.findings %}<li>{{ mark(finding.state) }}{% if finding.state != 'shown' %}<strong>{{ 'Missing' if finding.state == 'missing' else 'Not known' }}:</strong> {% endif %}{{ finding.text }} <span class="tag">[{{ finding.source }}]</span></li>
{% endfor %}</ul>
{% endfor %}
</section>

<section aria-labelledby="targets">
<h2 id="targets">Targets, and what was measured last</h2>
<div class="wide" role="region" aria-label="Targets" tabindex="0">
<table>
<caption>The stack comes back as one, so its strictest tier counts.</caption>
<thead><tr><th scope="col">Tier</th><th scope="col">Strategy</th><th scope="col">RPO target</th><th scope="col">RPO measured</th><th scope="col">RTO target</th><th scope="col">RTO measured</th><th scope="col">Tolerable at most</th></tr></thead>
<tbody>
{% for row in report.targets %}<tr><th scope="row">{{ row.tier or 'The stack' }}</th><td>{{ row.strategy or '' }}</td>
{% for key in ('rpo', 'rto') %}<td>{{ row[key ~ '_seconds'] | duration }}</td><td>{% if row[key].measured is none %}<span class="bad">✗ never measured</span>{% else %}{{ row[key].measured | duration }} {{ yes_no(row[key].met, 'met', 'missed', 'no target') }} <span class="tag">{{ row[key].kind }} of {{ row[key].at | day }}</span>{% endif %}</td>
{% endfor %}<td>{{ row.max_downtime_seconds | duration if row.max_downtime_seconds is not none else '' }}</td></tr>
{% endfor %}</tbody>
</table>
</div>
{% for one in plots.targets %}{{ plot(one, 'plot-target-' ~ loop.index) }}
{% else %}<p><span class="bad">✗ Missing:</span> RPO and RTO were never measured; no drill and no recovery is on record.</p>
{% endfor %}
</section>

<section aria-labelledby="topology">
<h2 id="topology">Topology, now</h2>
<div class="sites">
{% for site in report.topology %}<div class="site{{ ' active' if site.active }}">
<h3>{{ site.site }}{% if site.active %} <span class="tag">active</span>{% endif %}{% if site.lost %} <span class="bad">lost</span>{% endif %}</h3>
<p class="quiet">{{ site.description or '' }}</p>
{% for host in site.hosts %}<div class="host{{ ' attention' if host.attention }}">
<p><strong>{{ host.host }}</strong> <span class="tag">{{ host.roles | join(', ') }}</span></p>
{% for set in host.primary_of %}<p class="good">★ primary of {{ set }}</p>
{% endfor %}{% for note in host.notes %}<p{% if host.attention %} class="bad"{% endif %}>{{ '✗ ' if host.attention }}{{ note }}</p>
{% endfor %}</div>
{% endfor %}</div>
{% endfor %}</div>
</section>

<section aria-labelledby="backups">
<h2 id="backups">Backups and their verification</h2>
{% if report.repositories.seen %}<div class="wide" role="region" aria-label="Repositories" tabindex="0">
<table>
<caption>The repositories, as each host that can open them sees them now.</caption>
<thead><tr><th scope="col">Repository</th><th scope="col">Seen by</th><th scope="col">State</th><th scope="col">Newest</th><th scope="col">Newest verified</th><th scope="col">Kept</th></tr></thead>
<tbody>
{% for one in report.repositories.seen %}<tr><th scope="row">{{ one.repository }}</th><td>{{ one.host }}</td><td>{{ yes_no(one.state == 'ok' if one.state != 'unknown' else none, 'ok', one.state, 'unknown') }}{% for reason in one.reasons %}<br>{{ reason }}{% endfor %}</td><td>{{ one.newest_age_seconds | duration }}</td><td>{{ one.verified_age_seconds | duration }}</td><td>{{ one.restore_points if one.restore_points is not none else '?' }}</td></tr>
{% endfor %}</tbody>
</table>
</div>
{% else %}<p><span class="doubt">? Not known:</span> {{ report.repositories.reasons | join('; ') }}.</p>
{% endif %}
{% if plots.ages %}{{ plot(plots.ages, 'plot-ages') }}
{% else %}<p><span class="bad">✗ Missing:</span> the age of the backups over time; no look at them is on record.</p>
{% endif %}
{% set v = report.verifications %}
{% if v.newest %}<p>{{ v.good }} verifications were good and {{ v.bad }} bad. The newest: {{ v.newest.what }} on {{ v.newest.at | day }}, {{ yes_no(v.newest.ok, 'good', 'bad', '') }}.</p>
<div class="wide" role="region" aria-label="Verifications by month" tabindex="0">
<table>
<caption>Restore points that were restored and compared, by month.</caption>
<thead><tr><th scope="col">Month</th><th scope="col">Good</th><th scope="col">Bad</th></tr></thead>
<tbody>
{% for month, good, bad in v.by_month | reverse %}<tr><th scope="row">{{ month }}</th><td>{{ good }}</td><td>{% if bad %}<span class="bad">✗ {{ bad }}</span>{% else %}0{% endif %}</td></tr>
{% endfor %}</tbody>
</table>
</div>
{% else %}<p><span class="bad">✗ Missing:</span> no restore point was ever verified on record.</p>
{% endif %}
</section>

<section aria-labelledby="exercises">
<h2 id="exercises">Drills and recoveries</h2>
{% if report.tests %}<div class="wide" role="region" aria-label="Calendar" tabindex="0">
<table>
<caption>The calendar of tests.</caption>
<thead><tr><th scope="col">Test</th><th scope="col">Kind</th><th scope="col">Every</th><th scope="col">Owner</th><th scope="col">Last passed</th><th scope="col">Due</th></tr></thead>
<tbody>
{% for one in report.tests %}<tr><th scope="row">{{ one.name }}</th><td>{{ one.kind }}</td><td>{{ one.every_days }} days</td><td>{{ one.owner }}</td><td>{{ one.passed.at | day if one.passed else 'never' }}</td><td>{{ yes_no(not one.overdue, one.due | day if one.due else '', 'overdue' ~ (' since ' ~ (one.due | day) if one.due else ''), '') }}</td></tr>
{% endfor %}</tbody>
</table>
</div>
{% else %}<p><span class="bad">✗ Missing:</span> a calendar of tests.</p>
{% endif %}
{% if report.exercises %}<div class="wide" role="region" aria-label="History" tabindex="0">
<table>
<caption>Every drill and every recovery on record, the newest first.</caption>
<thead><tr><th scope="col">When</th><th scope="col">Kind</th><th scope="col">What</th><th scope="col">By</th><th scope="col">RPO</th><th scope="col">RTO</th><th scope="col">Passed</th><th scope="col">Record</th></tr></thead>
<tbody>
{% for one in report.exercises | reverse %}<tr><th scope="row">{{ one.at | day }}</th><td>{{ one.kind }}</td><td>{{ one.what }}</td><td>{{ one.by }}</td><td>{{ one.rpo_seconds | duration }}</td><td>{{ one.rto_seconds | duration }}</td><td>{{ yes_no(one.ok, 'yes', 'no', 'under way') }}</td><td>{{ one.record }}</td></tr>
{% endfor %}</tbody>
</table>
</div>
{% else %}<p><span class="bad">✗ Missing:</span> no drill and no recovery is on record.</p>
{% endif %}
</section>

<section aria-labelledby="phases">
<h2 id="phases">After-action reports: each recovery by its phases</h2>
{% for one in report.recoveries | reverse %}<h3>Epoch {{ one.number }}: {{ one.kind }} to {{ one.active_site }}</h3>
<p class="quiet">Declared by {{ one.declared_by }}: {{ one.reason }}</p>
<ul class="findings">
{% for each in one.open %}<li>{{ mark('missing') }}<strong>Open:</strong> {{ each.words }}</li>
{% else %}<li>{{ mark('shown') }}Nothing is open.</li>
{% endfor %}</ul>
<div class="wide" role="region" aria-label="Phases of epoch {{ one.number }}" tabindex="0">
<table>
<caption>What happened in epoch {{ one.number }}, and what people put on record of it.</caption>
<thead><tr><th scope="col">When</th><th scope="col">What</th><th scope="col">By</th><th scope="col">Record</th></tr></thead>
{% for phase in one.phases %}<tbody>
<tr><th scope="row" colspan="4">{{ phase.name | first_upper }}: {{ phase.state }}{% if phase.seconds is not none %}, {{ phase.seconds | duration }}{% endif %}</th></tr>
{% for step in phase.steps %}<tr><td>{{ step.at | second }}</td><td>{{ step.what }}</td><td>{{ step.by or '' }}</td><td>{{ step.record or '' }}</td></tr>
{% endfor %}</tbody>
{% endfor %}</table>
</div>
{% if one.notifications %}<div class="wide" role="region" aria-label="Notifications of epoch {{ one.number }}" tabindex="0">
<table>
<caption>Who was to be told in epoch {{ one.number }}, and who was in time.</caption>
<thead><tr><th scope="col">Who</th><th scope="col">Message</th><th scope="col">By</th><th scope="col">Told</th><th scope="col">In time</th><th scope="col">Confirmed</th><th scope="col">Record</th></tr></thead>
<tbody>
{% for each in one.notifications %}<tr><th scope="row">{{ each.whom }}</th><td>{{ each.when or 'not in the plan' }}</td><td>{{ each.due | second if each.due else '' }}</td><td>{{ each.at | second if each.at else '' }}</td><td>{{ yes_no(each.in_time, each.words, each.words, each.words) }}{% if each.late_because %}: {{ each.late_because }}{% endif %}</td><td>{% if each.acknowledged_by %}{{ each.acknowledged_by }}{% elif each.acknowledgement_asked %}{{ yes_no(False if each.at else none, '', 'missing', 'not yet') }}{% else %}not asked for{% endif %}</td><td>{{ each.record or '' }}</td></tr>
{% endfor %}</tbody>
</table>
</div>
{% endif %}
{% if one.corrective_actions %}<div class="wide" role="region" aria-label="Corrective actions of epoch {{ one.number }}" tabindex="0">
<table>
<caption>Corrective actions of epoch {{ one.number }}.</caption>
<thead><tr><th scope="col">What</th><th scope="col">Owner</th><th scope="col">Due</th><th scope="col">Done</th><th scope="col">Record</th></tr></thead>
<tbody>
{% for each in one.corrective_actions %}<tr><th scope="row">{{ each.what }}</th><td>{{ each.owner }}</td><td>{{ each.due or 'no day' }}</td><td>{{ yes_no(each.done_at is not none, each.done_at | day if each.done_at else '', 'overdue' if each.overdue else 'open', '') }}</td><td>{{ each.record }}</td></tr>
{% endfor %}</tbody>
</table>
</div>
{% endif %}
{% else %}<p>No recovery is on record.</p>
{% endfor %}
</section>

<section aria-labelledby="evidence">
<h2 id="evidence">The chain of evidence</h2>
{% set e = report.evidence %}
<dl>
<dt>Records</dt><dd>{{ e.records }}{% if e.first %}, from {{ e.first | day }} to {{ e.last | day }}{% endif %}</dd>
{% for kind, number in e.by_kind.items() %}<dt>{{ kind }}</dt><dd>{{ number }}</dd>
{% endfor %}<dt>Head</dt><dd>{% if e.head %}<code>{{ e.head }}</code>{% else %}none{% endif %}</dd>
<dt>Anchors</dt><dd>{{ e.anchors }}{% if e.newest_anchor %}, the newest of {{ e.newest_anchor | day }}{% endif %}; they confirm the chain up to record {{ e.proved }}</dd>
</dl>
{% for fault in e.faults %}<p class="bad">✗ {{ fault }}</p>
{% else %}{% if e.records %}<p class="good">✓ No record was edited, removed, inserted or moved.</p>{% endif %}
{% endfor %}
</section>
{% endblock %}
{% block footer %}Made from the pillar, the chain of evidence and what the hosts answered. Times are UTC.{% endblock %}
"""

RUNBOOK = """\
{% extends 'base' %}
{% macro reach(one) %}{{ [one.phone, one.email, one.other] | select | join(', ') }}{% endmacro %}
{% macro command(one) %}<p>{{ one.what | first_upper }}:</p>
{% if one.preview %}<p class="quiet">First the preview, which changes nothing:</p>
<pre><code># {{ one.preview }}</code></pre>
<p class="quiet">Then:</p>
{% endif %}<pre><code># {{ one.text }}</code></pre>
{% endmacro %}
{% block title %}Runbook of {{ book.stack }}{% endblock %}
{% block header %}
<h1>Runbook of {{ book.stack }}</h1>
<p class="quiet">{{ book.organisation }}. Written {{ book.written | time }} from the declaration {{ book.digest[:12] }}, epoch {{ book.epoch }}. Active site: <strong>{{ book.active_site }}</strong> ({{ book.profile }}){% if book.lost_sites %}; lost: {{ book.lost_sites | join(', ') }}{% endif %}.</p>
<nav aria-label="Sections"><p><a href="#symptoms">From symptom to verb</a> · <a href="#people">People</a> · <a href="#verbs">What to type</a> · <a href="#gone">When Salt is gone</a> · <a href="#places">Where everything is</a> · <a href="#order">Order of restoration</a></p></nav>
{% endblock %}
{% block main %}
<section aria-labelledby="symptoms">
<h2 id="symptoms">From symptom to verb</h2>
<div class="wide" role="region" aria-label="Symptoms" tabindex="0"><table>
<caption>Unknown is not absent: a host that does not answer may still take writes.</caption>
<thead><tr><th scope="col">What is seen</th><th scope="col">For how long</th><th scope="col">Who decides</th><th scope="col">What ends it</th></tr></thead>
<tbody>
{% for one in book.activation %}<tr><th scope="row">{{ one.when }}</th><td>{{ one.after_seconds | duration if one.after_seconds else 'at once' }}</td><td>{{ one.decided_by }}</td><td><a href="#verb-{{ one.verb }}">{{ one.verb }}</a></td></tr>
{% endfor %}</tbody></table></div>
<h3>Look first</h3>
<p>On the Salt master, as root. Nothing of this changes anything.</p>
{% for one in book.looks %}{{ command(one) }}{% endfor %}
</section>

<section aria-labelledby="people">
<h2 id="people">People</h2>
{% for role in book.roles %}<h3>{{ role.name }}</h3>
<p class="quiet">{{ role.duties }}. The first who can be reached is in charge.</p>
<ol>{% for one in role.holders %}<li>{{ one.name }}: {{ reach(one) }}</li>{% endfor %}</ol>
{% endfor %}
<h3>Who is told</h3>
<ol>
{% for one in book.communication %}<li>{{ one.when }}: {{ one.by }} tells {{ one.whom | join(', ') }}{% if one.within_seconds is not none %}, within {{ one.within_seconds | duration }} of {{ {'declaration': 'the declaration', 'service': 'the first transaction', 'completion': 'the completion'}[one.counts_from] }}{% endif %}{% if one.acknowledged %}; each of them confirms it, or the next way is tried{% endif %}.<br>“{{ one.template }}”</li>
{% endfor %}</ol>
<h3>All contacts</h3>
<dl>{% for id, one in book.contacts.items() %}<dt>{{ id }}</dt><dd>{{ one.name }}: {{ reach(one) }}</dd>{% endfor %}</dl>
</section>

<section aria-labelledby="verbs">
<h2 id="verbs">What to type</h2>
<p>On the Salt master, as root. In capitals is what only you know. An orchestration that crashed goes on when the same command is run again.</p>
{% for verb in book.verbs %}<h3 id="verb-{{ verb.name }}">{{ verb.name }}: {{ verb.title }}</h3>
<p class="quiet">{{ verb.when }}</p>
{% for one in verb.commands %}{{ command(one) }}{% endfor %}
{% if verb.by_hand %}<ul>{% for one in verb.by_hand %}<li>{{ one }}</li>{% endfor %}</ul>
{% endif %}{% endfor %}
{% if book.emergency_mode %}<h3>Emergency mode</h3>
<p>{{ book.emergency_mode.entered_by }} decides. On: {{ book.emergency_mode.channels | join(', ') }}. Off: {{ book.emergency_mode.off | join(', ') or 'none' }}, and whatever else OpenHIM has.</p>
{% for one in book.emergency_mode.commands %}{{ command(one) }}{% endfor %}
{% endif %}
</section>

<section aria-labelledby="gone">
<h2 id="gone">When Salt is gone</h2>
{% if book.start_bundle %}<p>The start bundle brings the master back on an empty machine with restic and Salt. The recovery key ({{ book.start_bundle.key }}) and the URL are in two files:</p>
<pre><code># export RESTIC_REPOSITORY_FILE=/root/bundle.url RESTIC_PASSWORD_FILE=/root/recovery.key
# restic dump latest /etc/salt/openhim-start.sh | sh</code></pre>
<ul>{% for one in book.start_bundle.repositories %}<li>{{ one.name }}: <code>{{ one.url }}</code></li>{% endfor %}</ul>
{% else %}<p class="bad">✗ No start bundle is declared (openhim:backup:bundle): without the master, all of the following is by hand.</p>
{% endif %}
<p>A host that boots closed is opened on the host itself, by who knows that no other site takes writes; it needs neither Salt nor a network:</p>
<pre><code># openhim-attest</code></pre>
<p>The databases of a restore point, without this package, into a new mongod. One of the keys below opens its repository:</p>
<pre><code># export RESTIC_REPOSITORY_FILE=/root/repository.url RESTIC_PASSWORD_FILE=/root/repository.key
# restic snapshots --tag stack={{ book.stack }},part=manifest
# restic dump SNAPSHOT manifest.json | python3 -m json.tool{% for set in book.databases | map(attribute='replica_set') | unique %}

# restic dump SNAPSHOT_OF_THE_PART {{ set }}.archive | mongorestore --archive{% endfor %}</code></pre>
</section>

<section aria-labelledby="places">
<h2 id="places">Where everything is</h2>
{% for site in book.sites %}<h3>{{ site.name }}{% if site.active %} (active){% endif %}{% if site.lost %} (lost){% endif %}</h3>
<p>{{ site.description or '' }}{% if site.facility %} {{ site.facility.address }}. {{ site.facility.instructions or '' }}{% endif %}</p>
{% if site.access %}<p>Who lets people in:</p><ol>{% for one in site.access %}<li>{{ one.name }}: {{ reach(one) }}</li>{% endfor %}</ol>{% endif %}
{% if site.hosts %}<div class="wide" role="region" aria-label="Hosts at {{ site.name }}" tabindex="0"><table>
<caption>Hosts at {{ site.name }}</caption>
<thead><tr><th scope="col">Host</th><th scope="col">Address</th><th scope="col">Roles</th><th scope="col">Data</th></tr></thead>
<tbody>{% for host in site.hosts %}<tr><th scope="row">{{ host.id }}</th><td>{{ host.address }}</td><td>{{ host.roles | join(', ') }}</td><td>{{ host.data | join(', ') }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}
{% endfor %}
<h3>Databases</h3>
<ul>{% for one in book.databases %}<li>{{ one.kind }}: {{ one.name }} on the set {{ one.replica_set }} ({{ one.members | join('; ') }})</li>{% endfor %}</ul>
<h3>Backups</h3>
{% if book.repositories %}<dl>{% for one in book.repositories %}<dt>{{ one.name }}</dt><dd><code>{{ one.url }}</code>, filled by {{ one.filled_by }}{% if one.copy_of %} from {{ one.copy_of }}{% endif %}{% if one.pruned_by %}, pruned by {{ one.pruned_by }}{% endif %}; opened by the key {{ one.key }}</dd>{% endfor %}</dl>
{% else %}<p class="bad">✗ No backups are declared.</p>{% endif %}
<h3>Keys</h3>
<p>Where each is, never what it is: in the pillar below openhim:secrets, on these hosts.</p>
<dl>{% for one in book['keys'] %}<dt>{{ one.name }}</dt><dd>{{ one.hosts | join(', ') }} <span class="tag">({{ one.purpose }})</span></dd>{% endfor %}</dl>
<h3>Copies of this plan</h3>
<ul><li>Every host of the stack: <code>{{ folder }}</code></li>{% for one in book.copies %}<li>{{ one.where }}{% if one.host %} ({{ one.host }}){% endif %}, kept by {{ one.kept_by }}</li>{% endfor %}</ul>
</section>

<section aria-labelledby="order">
<h2 id="order">Order of restoration</h2>
{% for tier in book.tiers %}<h3>{{ tier.order }}. {{ tier.name }}</h3>
<p>{{ (tier.databases + tier.channels + tier.services) | join(', ') }}. {{ tier.strategy | first_upper }}. RPO {{ tier.rpo_seconds | duration }}, RTO {{ tier.rto_seconds | duration }}, tolerable at most {{ tier.max_downtime_seconds | duration }}. {{ tier.impact }}.{% if tier.sla %} Promised: {{ tier.sla }}.{% endif %}</p>
{% endfor %}
</section>
{% endblock %}
{% block footer %}Contents {{ book.content[:12] }}. Times are UTC.{% endblock %}
"""

RUNBOOK_TEXT = """\
{% macro reach(one) %}{{ [one.phone, one.email, one.other] | select | join(', ') | md }}{% endmacro %}
{% macro command(one) %}
{{ one.what | first_upper | md }}:

{% if one.preview %}
First the preview, which changes nothing:

    # {{ one.preview }}

Then:

{% endif %}
    # {{ one.text }}

{% endmacro %}
# Runbook of {{ book.stack | md }}

{{ book.organisation | md }}. Written {{ book.written | time }} from the declaration `{{ book.digest[:12] }}`, epoch {{ book.epoch }}. Active site: **{{ book.active_site | md }}** ({{ book.profile }}){% if book.lost_sites %}; lost: {{ book.lost_sites | join(', ') | md }}{% endif %}.

## From symptom to verb

Unknown is not absent: a host that does not answer may still take writes.

| what is seen | for how long | who decides | what ends it |
|---|---|---|---|
{% for one in book.activation %}
| {{ one.when | md }} | {{ one.after_seconds | duration if one.after_seconds else 'at once' }} | {{ one.decided_by | md }} | {{ one.verb }} |
{% endfor %}

### Look first

On the Salt master, as root. Nothing of this changes anything.
{% for one in book.looks %}{{ command(one) }}{% endfor %}

## People

{% for role in book.roles %}
### {{ role.name | md }}

{{ role.duties | md }}. The first who can be reached is in charge.

{% for one in role.holders %}
{{ loop.index }}. {{ one.name | md }}: {{ reach(one) }}
{% endfor %}

{% endfor %}
### Who is told

{% for one in book.communication %}
{{ loop.index }}. {{ one.when | md }}: {{ one.by | md }} tells {{ one.whom | join(', ') | md }}{% if one.within_seconds is not none %}, within {{ one.within_seconds | duration }} of {{ {'declaration': 'the declaration', 'service': 'the first transaction', 'completion': 'the completion'}[one.counts_from] }}{% endif %}{% if one.acknowledged %}; each of them confirms it, or the next way is tried{% endif %}. "{{ one.template | md }}"
{% endfor %}

### All contacts

{% for id, one in book.contacts.items() %}
- {{ id | md }}: {{ one.name | md }}: {{ reach(one) }}
{% endfor %}

## What to type

On the Salt master, as root. In capitals is what only you know. An orchestration that crashed goes on when the same command is run again.

{% for verb in book.verbs %}
### {{ verb.name }}: {{ verb.title | md }}

{{ verb.when | md }}
{% for one in verb.commands %}{{ command(one) }}{% endfor %}

{% for one in verb.by_hand %}
- {{ one | md }}
{% endfor %}

{% endfor %}
{% if book.emergency_mode %}
### Emergency mode

{{ book.emergency_mode.entered_by | md }} decides. On: {{ book.emergency_mode.channels | join(', ') | md }}. Off: {{ (book.emergency_mode.off | join(', ') or 'none') | md }}, and whatever else OpenHIM has.
{% for one in book.emergency_mode.commands %}{{ command(one) }}{% endfor %}

{% endif %}
## When Salt is gone

{% if book.start_bundle %}
The start bundle brings the master back on an empty machine with restic and Salt. The recovery key ({{ book.start_bundle.key | md }}) and the URL are in two files:

    # export RESTIC_REPOSITORY_FILE=/root/bundle.url RESTIC_PASSWORD_FILE=/root/recovery.key
    # restic dump latest /etc/salt/openhim-start.sh | sh

{% for one in book.start_bundle.repositories %}
- {{ one.name | md }}: {{ one.url | md }}
{% endfor %}
{% else %}
No start bundle is declared (openhim:backup:bundle): without the master, all of the following is by hand.
{% endif %}

A host that boots closed is opened on the host itself, by who knows that no other site takes writes; it needs neither Salt nor a network:

    # openhim-attest

The databases of a restore point, without this package, into a new mongod. One of the keys below opens its repository:

    # export RESTIC_REPOSITORY_FILE=/root/repository.url RESTIC_PASSWORD_FILE=/root/repository.key
    # restic snapshots --tag stack={{ book.stack }},part=manifest
    # restic dump SNAPSHOT manifest.json | python3 -m json.tool
{% for set in book.databases | map(attribute='replica_set') | unique %}
    # restic dump SNAPSHOT_OF_THE_PART {{ set }}.archive | mongorestore --archive
{% endfor %}

## Where everything is

{% for site in book.sites %}
### {{ site.name | md }}{% if site.active %} (active){% endif %}{% if site.lost %} (lost){% endif %}


{{ (site.description or '') | md }}{% if site.facility %} {{ site.facility.address | md }}. {{ (site.facility.instructions or '') | md }}{% endif %}


{% for one in site.access %}
{{ loop.index }}. {{ one.name | md }}: {{ reach(one) }}
{% endfor %}

| host | address | roles | data |
|---|---|---|---|
{% for host in site.hosts %}
| {{ host.id | md }} | {{ host.address }} | {{ host.roles | join(', ') }} | {{ host.data | join(', ') | md }} |
{% endfor %}

{% endfor %}
### Databases

{% for one in book.databases %}
- {{ one.kind }}: {{ one.name | md }} on the set {{ one.replica_set | md }} ({{ one.members | join('; ') | md }})
{% endfor %}

### Backups

{% for one in book.repositories %}
- {{ one.name | md }}: {{ one.url | md }}, filled by {{ one.filled_by | md }}{% if one.copy_of %} from {{ one.copy_of | md }}{% endif %}{% if one.pruned_by %}, pruned by {{ one.pruned_by | md }}{% endif %}; opened by the key {{ one.key | md }}
{% else %}
No backups are declared.
{% endfor %}

### Keys

Where each is, never what it is: in the pillar below openhim:secrets, on these hosts.

{% for one in book['keys'] %}
- {{ one.name | md }}: {{ one.hosts | join(', ') | md }} ({{ one.purpose | md }})
{% endfor %}

### Copies of this plan

- Every host of the stack: {{ folder }}
{% for one in book.copies %}
- {{ one.where | md }}{% if one.host %} ({{ one.host | md }}){% endif %}, kept by {{ one.kept_by | md }}
{% endfor %}

## Order of restoration

{% for tier in book.tiers %}
{{ tier.order }}. {{ tier.name | md }}: {{ (tier.databases + tier.channels + tier.services) | join(', ') | md }}. {{ tier.strategy | first_upper }}. RPO {{ tier.rpo_seconds | duration }}, RTO {{ tier.rto_seconds | duration }}, tolerable at most {{ tier.max_downtime_seconds | duration }}. {{ tier.impact | md }}.{% if tier.sla %} Promised: {{ tier.sla | md }}.{% endif %}

{% endfor %}

Contents {{ book.content[:12] }}. Times are UTC.
"""
