BEGIN TRANSACTION;
CREATE TABLE mlops_alias_log (
	sequence INTEGER NOT NULL, 
	environment VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	alias VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	previous INTEGER, 
	kind VARCHAR(20) NOT NULL, 
	actor VARCHAR(200) NOT NULL, 
	reason TEXT NOT NULL, 
	evidence JSON NOT NULL, 
	at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (sequence)
);
INSERT INTO "mlops_alias_log" VALUES(1,'dev','m','champion',1,NULL,'promotion','ada','first','[]','2024-01-01T00:00:00+00:00');
CREATE TABLE mlops_aliases (
	environment VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	alias VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	PRIMARY KEY (environment, model, alias)
);
INSERT INTO "mlops_aliases" VALUES('dev','m','champion',1);
CREATE TABLE mlops_approvals (
	sequence INTEGER NOT NULL, 
	environment VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	approved BOOLEAN NOT NULL, 
	approver VARCHAR(200) NOT NULL, 
	reason TEXT NOT NULL, 
	at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (sequence)
);
CREATE TABLE mlops_attempts (
	sequence INTEGER NOT NULL, 
	table_name VARCHAR(130) NOT NULL, 
	partition VARCHAR(64) NOT NULL, 
	inputs VARCHAR(64) NOT NULL, 
	run_id VARCHAR(64) NOT NULL, 
	started_at VARCHAR(40) NOT NULL, 
	error TEXT, 
	PRIMARY KEY (sequence)
);
CREATE TABLE mlops_candidates (
	model VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	run_id VARCHAR(64) NOT NULL, 
	artifact VARCHAR(64) NOT NULL, 
	snapshot INTEGER NOT NULL, 
	created_at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (model, digest)
);
INSERT INTO "mlops_candidates" VALUES('m','d1','r1','a1',7,'2024-01-01T00:00:00+00:00');
CREATE TABLE mlops_decisions (
	environment VARCHAR(64) NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	monitor VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	partition VARCHAR(64) NOT NULL, 
	opened VARCHAR(40) NOT NULL, 
	reason TEXT NOT NULL, 
	evidence JSON NOT NULL, 
	closed TEXT NOT NULL, 
	recorded_at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (environment, id)
);
CREATE TABLE mlops_erasures (
	sequence INTEGER NOT NULL, 
	at VARCHAR(40) NOT NULL, 
	state VARCHAR(20) NOT NULL, 
	actor VARCHAR(200) NOT NULL, 
	reason TEXT NOT NULL, 
	entity TEXT NOT NULL, 
	facts JSON NOT NULL, 
	PRIMARY KEY (sequence)
);
CREATE TABLE mlops_evidence (
	environment VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	gate VARCHAR(200) NOT NULL, 
	definition VARCHAR(64) NOT NULL, 
	relative BOOLEAN NOT NULL, 
	champion VARCHAR(64) NOT NULL, 
	passed BOOLEAN NOT NULL, 
	value FLOAT, 
	threshold FLOAT, 
	reason TEXT NOT NULL, 
	PRIMARY KEY (environment, model, digest, gate)
);
INSERT INTO "mlops_evidence" VALUES('dev','m','d1','auc','x',0,'',1,0.7,0.6,'auc 0.7');
CREATE TABLE mlops_metrics (
	run_id VARCHAR(64) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	value FLOAT, 
	text VARCHAR(20) NOT NULL, 
	PRIMARY KEY (run_id, name), 
	FOREIGN KEY(run_id) REFERENCES mlops_runs (id)
);
INSERT INTO "mlops_metrics" VALUES('r1','auc',0.7,'');
INSERT INTO "mlops_metrics" VALUES('r1','loss',NULL,'nan');
CREATE TABLE mlops_reports (
	sequence INTEGER NOT NULL, 
	environment VARCHAR(64) NOT NULL, 
	monitor VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	partition VARCHAR(64) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	version INTEGER NOT NULL, 
	state VARCHAR(40) NOT NULL, 
	reason TEXT NOT NULL, 
	"end" VARCHAR(40) NOT NULL, 
	PRIMARY KEY (sequence)
);
CREATE TABLE mlops_runs (
	sequence INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	dagster_run_id VARCHAR(64) NOT NULL, 
	started_at VARCHAR(40) NOT NULL, 
	ended_at VARCHAR(40) NOT NULL, 
	snapshot INTEGER NOT NULL, 
	params JSON NOT NULL, 
	record JSON NOT NULL, 
	PRIMARY KEY (sequence), 
	UNIQUE (id)
);
INSERT INTO "mlops_runs" VALUES(1,'r1','m','f','d','2024-01-01T00:00:00+00:00','2024-01-01T00:01:00+00:00',7,'{"a": 1}','{}');
CREATE TABLE mlops_schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "mlops_schema" VALUES(1);
CREATE TABLE mlops_trainings (
	environment VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	run_id VARCHAR(64) NOT NULL, 
	decision VARCHAR(64), 
	as_of VARCHAR(40) NOT NULL, 
	version INTEGER, 
	outcome VARCHAR(20) NOT NULL, 
	started_at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (environment, model, run_id)
);
CREATE TABLE mlops_versions (
	model VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	run_id VARCHAR(64) NOT NULL, 
	artifact VARCHAR(64) NOT NULL, 
	snapshot INTEGER NOT NULL, 
	created_at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (model, version), 
	UNIQUE (model, digest)
);
INSERT INTO "mlops_versions" VALUES('m',1,'d1','r1','a1',7,'2024-01-01T00:00:00+00:00');
CREATE TABLE mlops_view_versions (
	sequence INTEGER NOT NULL, 
	"view" VARCHAR(64) NOT NULL, 
	version VARCHAR(16) NOT NULL, 
	definition JSON NOT NULL, 
	snapshot INTEGER NOT NULL, 
	recorded_at VARCHAR(40) NOT NULL, 
	removed_at VARCHAR(40), 
	PRIMARY KEY (sequence)
);
CREATE TABLE mlops_waiting (
	environment VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	PRIMARY KEY (environment, model)
);
CREATE INDEX ix_mlops_runs_fingerprint ON mlops_runs (fingerprint);
CREATE INDEX ix_mlops_runs_model ON mlops_runs (model);
CREATE INDEX ix_mlops_reports_monitor ON mlops_reports (monitor);
CREATE INDEX ix_mlops_decisions_model ON mlops_decisions (model);
CREATE INDEX ix_mlops_attempts_table_name ON mlops_attempts (table_name);
CREATE INDEX ix_mlops_view_versions_view ON mlops_view_versions ("view");
CREATE TRIGGER mlops_versions_no_update BEFORE UPDATE ON mlops_versions BEGIN SELECT RAISE(ABORT, 'mlops_versions is append-only'); END;
CREATE TRIGGER mlops_versions_no_delete BEFORE DELETE ON mlops_versions BEGIN SELECT RAISE(ABORT, 'mlops_versions is append-only'); END;
CREATE TRIGGER mlops_alias_log_no_update BEFORE UPDATE ON mlops_alias_log BEGIN SELECT RAISE(ABORT, 'mlops_alias_log is append-only'); END;
CREATE TRIGGER mlops_alias_log_no_delete BEFORE DELETE ON mlops_alias_log BEGIN SELECT RAISE(ABORT, 'mlops_alias_log is append-only'); END;
CREATE TRIGGER mlops_approvals_no_update BEFORE UPDATE ON mlops_approvals BEGIN SELECT RAISE(ABORT, 'mlops_approvals is append-only'); END;
CREATE TRIGGER mlops_approvals_no_delete BEFORE DELETE ON mlops_approvals BEGIN SELECT RAISE(ABORT, 'mlops_approvals is append-only'); END;
CREATE TRIGGER mlops_erasures_no_update BEFORE UPDATE ON mlops_erasures BEGIN SELECT RAISE(ABORT, 'mlops_erasures is append-only'); END;
CREATE TRIGGER mlops_erasures_no_delete BEFORE DELETE ON mlops_erasures BEGIN SELECT RAISE(ABORT, 'mlops_erasures is append-only'); END;
COMMIT;
