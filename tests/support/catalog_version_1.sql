-- A catalog of schema version 1, as `sqlite3 catalog.sqlite .dump` gives it: what an update finds.
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA application_id = 1919970404;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE agenda (
        vm_id INTEGER PRIMARY KEY REFERENCES vm (id),
        due_at INTEGER,
        retry_at INTEGER,
        requested_at INTEGER,
        resync_requested INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        failure_text TEXT,
        failure_error TEXT,
        failure_severity TEXT,
        failure_at INTEGER,
        paused_at INTEGER,
        latest_number INTEGER,
        latest_time INTEGER,
        latest_consistency TEXT
    );
INSERT INTO "agenda" VALUES(1,1769861100000000,NULL,NULL,0,0,NULL,NULL,NULL,NULL,NULL,7,1769860800000000,'cold');
INSERT INTO "agenda" VALUES(2,1769861100000000,1769860920000000,NULL,0,1,'cannot write ''it''''s'': the connection was lost','UnreachableError','transient',1769860860000000,NULL,NULL,NULL,NULL);
INSERT INTO "agenda" VALUES(3,NULL,NULL,1769860800000000,1,0,NULL,NULL,NULL,NULL,1769860800000000,NULL,NULL,NULL);
CREATE TABLE run (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        vm_id INTEGER NOT NULL REFERENCES vm (id),
        triggered_by TEXT NOT NULL,
        due_at INTEGER NOT NULL,
        started_at INTEGER NOT NULL,
        missed INTEGER NOT NULL,
        ended_at INTEGER,
        outcome TEXT,
        kind TEXT,
        point INTEGER,
        scanned_bytes INTEGER NOT NULL,
        changed_bytes INTEGER NOT NULL,
        sent_bytes INTEGER NOT NULL,
        failure_text TEXT,
        failure_error TEXT,
        failure_severity TEXT,
        failure_at INTEGER
    );
INSERT INTO "run" VALUES(1,1,'schedule',1769860800000000,1769860800000000,2,1769860860000000,'done','delta',7,67108864,3145728,2097152,NULL,NULL,NULL,NULL);
INSERT INTO "run" VALUES(2,2,'retry',1769860800000000,1769860800000000,0,1769860860000000,'failed',NULL,NULL,0,0,0,'cannot write ''it''''s'': the connection was lost','UnreachableError','transient',1769860860000000);
INSERT INTO "run" VALUES(3,1,'schedule',1769861100000000,1769861100000000,0,NULL,NULL,NULL,NULL,0,0,0,NULL,NULL,NULL,NULL);
CREATE TABLE vm (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        runs INTEGER NOT NULL DEFAULT 0
    );
INSERT INTO "vm" VALUES(1,'웹 서버 🖥',2);
INSERT INTO "vm" VALUES(2,'db',1);
INSERT INTO "vm" VALUES(3,'쉬는 기계',0);
CREATE INDEX run_of_vm ON run (vm_id, number, started_at);
CREATE INDEX run_by_start ON run (started_at);
CREATE INDEX run_under_way ON run (number) WHERE outcome IS NULL;
CREATE TRIGGER run_added AFTER INSERT ON run BEGIN
        UPDATE vm SET runs = runs + 1 WHERE id = NEW.vm_id;
    END;
CREATE TRIGGER run_removed AFTER DELETE ON run BEGIN
        UPDATE vm SET runs = runs - 1 WHERE id = OLD.vm_id;
    END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('run',3);
COMMIT;
