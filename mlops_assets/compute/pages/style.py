"""The style sheet of the pages: light and dark, narrow and wide, screen and paper."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--card:#f8f9fb;--ink:#1a2230;--faint:#5c6675;--rule:#dfe3ea;--then:#c3cad5;--now:#1f5fd0;
--good:#12703f;--good-card:#e8f5ee;--bad:#b3261e;--bad-card:#fcebe9;--warn:#8a5300;--warn-card:#fdf3e1;--unsure:#4c5a6e;--unsure-card:#eef1f5}
@media (prefers-color-scheme:dark){:root{--paper:#12161d;--card:#1a2029;--ink:#e6eaf1;--faint:#9aa5b5;--rule:#2f3845;--then:#4a5565;--now:#78a9ff;
--good:#6fd29b;--good-card:#14291f;--bad:#ff9087;--bad-card:#351a19;--warn:#f2b95c;--warn-card:#30240f;--unsure:#b1bccb;--unsure-card:#222a35}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1120px;margin:0 auto;padding:28px 24px 56px}
h1{font-size:22px;line-height:1.25;margin:0}h2{font-size:17px;margin:40px 0 4px}h3{font-size:15px;margin:0;overflow-wrap:anywhere}
p{margin:4px 0;max-width:80ch}.faint{color:var(--faint)}.small{font-size:13px}
header p{margin-top:2px}
.states{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:14px;margin-top:20px}
.state{border-radius:10px;padding:14px 16px;border:1px solid;background:var(--unsure-card);border-color:var(--unsure)}
.state strong{display:block;font-size:18px;line-height:1.3;color:var(--unsure)}.state p{overflow-wrap:anywhere}
.state.good{background:var(--good-card);border-color:var(--good)}.state.good strong{color:var(--good)}
.state.bad{background:var(--bad-card);border-color:var(--bad)}.state.bad strong{color:var(--bad)}
.state.warn{background:var(--warn-card);border-color:var(--warn)}.state.warn strong{color:var(--warn)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(310px,1fr));gap:14px;margin-top:12px}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px;break-inside:avoid}
.card header{display:flex;justify-content:space-between;align-items:baseline;gap:10px}
.card p{font-size:13px;min-height:3.9em;margin:4px 0 8px;overflow-wrap:anywhere}
.tag{font-size:12px;font-weight:600;white-space:nowrap;color:var(--faint)}.tag.bad{color:var(--bad)}.tag.warn{color:var(--warn)}
.wide{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px;margin-top:12px;break-inside:avoid}
.pair{display:grid;grid-template-columns:minmax(240px,320px) 1fr;gap:24px;align-items:start}
@media (max-width:760px){.pair{grid-template-columns:1fr}}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:11px;fill:var(--ink)}svg text.faint{fill:var(--faint)}svg text.limit-text{fill:var(--warn)}
.reference{fill:var(--then)}.current{fill:var(--now)}.axis{fill:none;stroke:var(--rule);stroke-width:1}
.usual{fill:none;stroke:var(--faint);stroke-width:5;stroke-linecap:round;opacity:.28}
.agree{fill:none;stroke:var(--faint);stroke-width:1;stroke-dasharray:2 3}
.limit{fill:none;stroke:var(--warn);stroke-width:1.5;stroke-dasharray:4 3}
.line{fill:none;stroke:var(--now);stroke-width:1.5;stroke-linejoin:round}.interval{fill:none;stroke:var(--now);stroke-width:5;opacity:.2;stroke-linecap:round}
.now{fill:var(--now)}.bad{fill:var(--bad)}.unsure{fill:var(--paper);stroke:var(--unsure);stroke-width:1.5}
figure{margin:0}.key{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;color:var(--faint);margin-top:6px}
.key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px;vertical-align:-1px}
.table{overflow-x:auto;margin-top:10px}
table{border-collapse:collapse;width:100%;font-size:13.5px}
caption{text-align:left;color:var(--faint);font-size:13px;padding-bottom:6px}
th,td{padding:5px 10px 5px 0;text-align:right;border-bottom:1px solid var(--rule);vertical-align:baseline;white-space:nowrap}
th:first-child,td:first-child,.words{text-align:left}.words{white-space:normal}
thead th{font-weight:600;color:var(--faint);border-bottom:1.5px solid var(--rule)}tbody th{font-weight:600}
tr.bad th,tr.bad .mark{color:var(--bad)}tr.warn th,tr.warn .mark{color:var(--warn)}
.mark{display:inline-block;min-width:58px}.scroll{overflow-x:auto}.scroll svg{min-width:640px}
.gauge{display:inline-block;width:90px;height:8px;border-radius:4px;background:var(--rule);margin-right:8px;position:relative;vertical-align:1px}
.gauge b{position:absolute;inset:0 auto 0 0;border-radius:4px;background:var(--now)}tr.warn .gauge b{background:var(--warn)}
footer{margin-top:40px;padding-top:12px;border-top:1px solid var(--rule);color:var(--faint);font-size:13px}
@media print{:root{color-scheme:light;--paper:#fff;--card:#fff;--ink:#000;--faint:#444;--rule:#bbb;--then:#c3cad5;--now:#1f5fd0;--good:#12703f;--good-card:#fff;
--bad:#b3261e;--bad-card:#fff;--warn:#8a5300;--warn-card:#fff;--unsure:#333;--unsure-card:#fff}
body{font-size:11pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}main{max-width:none;padding:0}.table{overflow:visible}tr{break-inside:avoid}}
"""
