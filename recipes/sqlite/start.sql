-- Notes each start in the database, and says how many there have been.
CREATE TABLE IF NOT EXISTS starts (at TEXT DEFAULT CURRENT_TIMESTAMP);
INSERT INTO starts DEFAULT VALUES;
SELECT 'start ' || count(*) || ' of this database, the first at ' || min(at) || ' UTC' FROM starts;
