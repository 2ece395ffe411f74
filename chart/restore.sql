-- Goes before a dump, and COMMIT after it: the restore is all or nothing, wherever the stream ends.
-- Drops everything of ours in the schema, since a dump cannot name what a later version has added.
BEGIN;
DO $restore$
DECLARE
    kind text;
    names text;
BEGIN
    -- A session that waits for a table lock holds up all later ones: so try often, and each time for less than deadlock_timeout.
    SET LOCAL lock_timeout = '800ms';
    FOR attempt IN 1..60 LOOP
        BEGIN
            -- the lock under which the service changes its schema
            PERFORM pg_advisory_xact_lock(2003397481);
            SELECT string_agg(oid::regclass::text, ', ') INTO names
            FROM pg_class
            WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
                AND pg_has_role(relowner, 'USAGE');
            IF names IS NOT NULL THEN
                EXECUTE 'LOCK TABLE ' || names;
            END IF;
            EXIT;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF attempt = 60 THEN
                RAISE 'a long-running transaction holds the tables: pg_stat_activity shows it';
            END IF;
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;

    FOR kind, names IN
        SELECT object.kind, string_agg(object.name, ', ')
        FROM (
            -- a view is newer than what it selects from
            SELECT oid, 'pg_class'::regclass AS catalog, relowner AS owner, relnamespace AS namespace, oid::regclass::text AS name,
                CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
                CASE relkind WHEN 'v' THEN -oid::bigint WHEN 'm' THEN -oid::bigint WHEN 'S' THEN 2 ELSE 1 END AS place
            FROM pg_class WHERE relkind IN ('v', 'm', 'r', 'p', 'S')
            UNION ALL
            SELECT oid, 'pg_proc'::regclass, proowner, pronamespace, oid::regprocedure::text, 'ROUTINE', 3
            FROM pg_proc
            UNION ALL
            SELECT pg_type.oid, 'pg_type'::regclass, typowner, typnamespace, pg_type.oid::regtype::text, 'TYPE', 4
            FROM pg_type LEFT JOIN pg_class ON pg_class.oid = typrelid
            WHERE typtype IN ('d', 'e', 'r') OR relkind = 'c'
        ) AS object
        WHERE namespace = current_schema()::regnamespace AND pg_has_role(owner, 'USAGE') AND NOT EXISTS (
            SELECT FROM pg_depend
            WHERE classid = object.catalog AND objid = object.oid AND refobjid <> objid
                AND deptype IN ('e', 'i', 'a') -- part of an extension, or dropped with another object
        )
        GROUP BY object.kind, place
        ORDER BY place
    LOOP
        -- without CASCADE: objects of others that depend on ours are named in an error
        EXECUTE format('DROP %s %s', kind, names);
    END LOOP;
END
$restore$;
