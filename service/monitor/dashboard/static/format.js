// Numbers, sizes and times as people read them.

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

export function bytes(count) {
  let unit = 0;
  let value = count;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export function number(value) {
  return value.toLocaleString("en-GB");
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

// A length of time, with its two largest units.
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60 ? `${s % 60} s` : ""}`.trim();
  if (s < 86400) {
    const minutes = Math.floor((s % 3600) / 60);
    return `${Math.floor(s / 3600)} h ${minutes ? `${minutes} min` : ""}`.trim();
  }
  const hours = Math.floor((s % 86400) / 3600);
  return `${plural(Math.floor(s / 86400), "day")}${hours ? ` ${hours} h` : ""}`;
}

export function ago(at, now) {
  const s = now - at;
  return s < 5 ? "just now" : `${duration(s < 3600 ? Math.floor(s / 5) * 5 : s)} ago`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

export function day(at) {
  return new Date(at * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
}

export function moment(at, now) {
  const same = new Date(at * 1000).toDateString() === new Date(now * 1000).toDateString();
  return same ? clock(at) : `${day(at)}, ${clock(at)}`;
}

export function iso(at) {
  return new Date(at * 1000).toISOString();
}
