-- Texts as clients see them, and limits of texts.

-- public_id returns an id and public_time a time as clients see them: <prefix>_<32 hex
-- digits>, RFC 3339 with Z.
CREATE OR REPLACE FUNCTION nofx.public_id(p_prefix text, p_id uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN p_prefix || '_' || replace(p_id::text, '-', '');

CREATE OR REPLACE FUNCTION nofx.public_time(p_at timestamptz) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE -- as to_char is: else it is not inlined
    RETURN to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- Returns the longest beginning of a text that fits into a number of bytes.
CREATE OR REPLACE FUNCTION nofx.clip(p_text text, p_bytes int) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    v text := left(p_text, p_bytes);
BEGIN
    WHILE octet_length(v) > p_bytes LOOP
        v := left(v, -((octet_length(v) - p_bytes + 3) / 4)); -- a character has at most four bytes
    END LOOP;
    RETURN v;
END
$$;

-- Reports whether a text is sha256:<64 hex digits>. One regular expression would do, but
-- takes ten times as long.
CREATE OR REPLACE FUNCTION nofx.is_digest(p text) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    RETURN length(p) = 71 AND starts_with(p, 'sha256:') AND translate(substr(p, 8), '0123456789abcdef', '') = '';
